"""Where edits come from: the embedded Almanac, the world, published files, and your own facts.

stream = datasets.almanac(edits=300, batch_size=30, seed=0)
stream = datasets.world(edits=300, host=host)
stream = datasets.zsre("zsre_mend_eval.json", batch_size=30)
stream = datasets.hallucination(datasets.fetch("hallucination"))
stream = datasets.from_csv("facts.csv", batch_size=10)
stream = datasets.from_json("facts.jsonl", batch_size=10)
"""

from .bank import prompt_bank
from .embedded import almanac, almanac_facts, almanac_prose, data_folder
from .fetching import FetchError, Source, fetch
from .published import counterfact, hallucination, knowedit, mquake, qaedit, wikibigedit, zsre
from .records import from_csv, from_dataframe, from_json, from_records
from .subjects import found_subject
from .world import world, world_facts, world_prose

__all__ = [
    "FetchError",
    "Source",
    "almanac",
    "almanac_facts",
    "almanac_prose",
    "counterfact",
    "data_folder",
    "fetch",
    "found_subject",
    "from_csv",
    "from_dataframe",
    "from_json",
    "from_records",
    "hallucination",
    "knowedit",
    "mquake",
    "prompt_bank",
    "qaedit",
    "wikibigedit",
    "world",
    "world_facts",
    "world_prose",
    "zsre",
]
