"""A bank of prompts that ships with the library: many questions about the same subjects.

    facts = prompt_bank()          # CalibrationFact entries, which no host needs to know

It shows how alike a host's states are for wordings of one question, and for different questions
about one subject, where a stream brings no calibration facts of its own.
"""

from __future__ import annotations

import json

from ..edits import CalibrationFact
from .embedded import data_folder
from .facts import phrased


def prompt_bank(subjects: int = 2) -> tuple[CalibrationFact, ...]:
    """Every question of the bank in five wordings, about so many subjects of each kind."""
    text = (data_folder() / "bank" / "prompts.json").read_text(encoding="utf-8")
    return tuple(
        CalibrationFact(
            subject=subject,
            relation=relation,
            prompts=tuple(phrased(wording, subject) for wording in wordings),
        )
        for kind in json.loads(text)
        for subject in kind["subjects"][:subjects]
        for relation, wordings in kind["relations"].items()
    )
