"""Base-to-novel: no kind of its own, but exclusive classes tried in halves, of which one is learnt."""

from evalfm.tasks.kinds.kind import ALL, Column, Kind

BASE_TO_NOVEL = Kind(
    name="base-to-novel",
    fewest=2,
    truth=(Column("target", classes=ALL),),
    # No score is given of the classes of the other half.
    score=Column("score_{}", partly=True),
    halves=True,
    unasked="tried its classes in halves, which has no score to ask by attribute",
)
