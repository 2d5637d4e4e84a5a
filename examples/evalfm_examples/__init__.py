"""An encoder, a head, a data source, a task and a metric that evalfm finds by the entry points of pyproject.toml."""

from pathlib import Path

PTX_MEN = Path(__file__).with_name("ptx_men.yaml")
