"""An encoder, a head, a data source and a task that evalfm finds by the entry points of pyproject.toml."""

from pathlib import Path

PTX_MEN = Path(__file__).with_name("ptx_men.yaml")
