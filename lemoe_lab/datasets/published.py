"""The data sets that the papers edit, from their published files.

    stream = zsre("zsre_mend_eval.json", edits=1000, batch_size=30, seed=0)
    stream = counterfact("counterfact.json")
    stream = hallucination(fetch("hallucination"))
    stream = knowedit("recent_test.json")

A share of the records is held back for calibrating routers: they are neither edited nor asked
about. The records are drawn at random by ``seed``, the same on every machine; of records about the
same fact (the same prompt, or one that rephrases another's) only the first that is drawn is used.
Files are JSON lists, JSON Lines or Parquet tables; which of the published layouts a record has is
seen from its columns (:mod:`.layouts`). Where a file names several right answers, the first is the
target and the others are its aliases. Text files are UTF-8 unless ``encoding`` names another.

What the papers report of them: for ZsRE and CounterFact the share of target tokens that are right
with the target fed in (scorer ``teacher_forced``; arXiv 2110.11309, 2405.14768), for hallucination
the perplexity of the target (:func:`lemoe_lab.evaluation.target_perplexity`; arXiv 2211.11031).

No text is cut. A host refuses an edit that is longer than its context when the session is opened,
with an :class:`~lemoe_lab.edits.EditError` that names the edit and both lengths.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyarrow.parquet

from ..edits import CalibrationFact, Edit, EditError, EditStream, FactIndex
from . import layouts
from .files import Row, json_records
from .layouts import Layout

HELD_BACK = 0.2  # share of the records that calibrate routers
ANY = "any"  # the relation of facts whose file names none


def zsre(
    path: str | Path,
    edits: int | None = None,
    batch_size: int = 30,
    seed: int = 0,
    *,
    encoding: str | None = None,
) -> EditStream:
    """Questions of ZsRE (Levy et al. 2017).

    In the layout of Mitchell et al. it needs ``src``, ``alt``, ``rephrase`` and ``loc``;
    ``loc_ans``, ``answers``, ``subject`` are read if they are there. The locality prompt is a
    natural question about something else (group ``far``), scored with ``loc_ans`` fed in. In the
    layout of KnowEdit it needs ``prompt`` and ``target_new``; its locality prompts are of the group
    ``same_subject``.
    """
    known = {"src": layouts.mend_zsre, "prompt": layouts.knowedit}
    return _stream(path, "zsre", known, edits, batch_size, seed, encoding)


def counterfact(
    path: str | Path,
    edits: int | None = None,
    batch_size: int = 30,
    seed: int = 0,
    *,
    encoding: str | None = None,
) -> EditStream:
    """Counterfactual statements (Meng et al., arXiv 2202.05262).

    In the flat layout it needs ``prompt``, ``target_new``, ``rephrase_prompt`` and
    ``locality_prompt``, the same question about another subject (group ``near``);
    ``locality_ground_truth``, ``ground_truth`` and ``subject`` are read if they are there. In the
    original layout it needs ``requested_rewrite``, and every paraphrase and neighbour is asked.
    """
    known = {"prompt": layouts.flat_counterfact, "requested_rewrite": layouts.rome_counterfact}
    return _stream(path, "counterfact", known, edits, batch_size, seed, encoding)


def hallucination(
    path: str | Path,
    edits: int | None = None,
    batch_size: int = 30,
    seed: int = 0,
    *,
    encoding: str | None = None,
) -> EditStream:
    """Corrected sentences of WikiBio passages (SelfCheckGPT, arXiv 2303.08896).

    In the flat layout it needs ``prompt`` (the passage so far, up to some hundred words),
    ``target_new`` (the sentence to say), ``locality_prompt`` and ``locality_ground_truth``, neutral
    text whose perplexity must not grow. In the layout of KnowEdit it needs ``text`` and ``labels``;
    its locality prompts are of the group ``same_subject``. There are no rephrases. A passage and
    its second half calibrate routers.
    """
    known = {"prompt": layouts.flat_hallucination, "text": layouts.knowedit}
    return _stream(path, "hallucination", known, edits, batch_size, seed, encoding)


def knowedit(
    path: str | Path,
    edits: int | None = None,
    batch_size: int = 30,
    seed: int = 0,
    *,
    encoding: str | None = None,
) -> EditStream:
    """KnowEdit's ZsRE, wiki_recent, wiki_counterfact and WikiBio (arXiv 2401.01286).

    It needs ``prompt`` and ``target_new`` (WikiBio: ``text`` and ``labels``); ``subject``,
    ``ground_truth`` and ``rephrase_prompt`` are read if they are there. The locality prompts ask
    about the same subject. Questions that need the new fact (``portability``) are left out.
    """
    known = {"prompt": layouts.knowedit, "text": layouts.knowedit}
    return _stream(path, "knowedit", known, edits, batch_size, seed, encoding)


def wikibigedit(
    path: str | Path,
    edits: int | None = None,
    batch_size: int = 30,
    seed: int = 0,
    *,
    encoding: str | None = None,
) -> EditStream:
    """Changes of Wikidata as questions: WikiBigEdit (Thede et al., arXiv 2503.05683).

    It needs ``update`` and ``ans``; ``rephrase``, ``personas``, ``loc``, ``loc_ans`` and
    ``subject`` are read if they are there. In the flat layout it needs the columns of
    :func:`counterfact`. The locality prompt asks the like about a similar subject (group ``near``).
    There are no old answers, and questions of several hops are left out.
    """
    known = {"prompt": layouts.flat_counterfact, "update": layouts.wikibigedit}
    return _stream(path, "wikibigedit", known, edits, batch_size, seed, encoding)


def qaedit(
    path: str | Path,
    edits: int | None = None,
    batch_size: int = 30,
    seed: int = 0,
    *,
    encoding: str | None = None,
) -> EditStream:
    """Questions that language models get wrong: QAEdit (Yang et al., arXiv 2502.11177).

    It needs ``prompt`` and ``target``; ``rephrase``, ``subject`` and ``locality``, a list of
    natural questions about something else (group ``far``), are read if they are there.
    """
    known = {"prompt": layouts.qaedit}
    return _stream(path, "qaedit", known, edits, batch_size, seed, encoding)


def mquake(
    path: str | Path,
    edits: int | None = None,
    batch_size: int = 30,
    seed: int = 0,
    *,
    encoding: str | None = None,
) -> EditStream:
    """The rewritten facts of MQuAKE (Zhong et al., arXiv 2305.14795).

    It needs ``requested_rewrite``, a list of up to four facts with ``prompt``, ``subject`` and
    ``target_new``; their ``question`` is the rephrase. A fact that several records rewrite is
    edited once. There is no locality, and the questions of several hops are left out.
    """
    known = {"requested_rewrite": layouts.mquake}
    return _stream(path, "mquake", known, edits, batch_size, seed, encoding)


def _stream(
    path: str | Path,
    name: str,
    known: Mapping[str, Layout],
    edits: int | None,
    batch_size: int,
    seed: int,
    encoding: str | None,
) -> EditStream:
    records = _read(Path(path), encoding)
    if not records:
        raise EditError(f"{path} holds no records; get the data set's file anew")
    order = random.Random(f"{seed}/{name}").sample(range(len(records)), len(records))
    held_back = round(len(records) * HELD_BACK)

    def made(indices: Iterable[int]) -> Iterator[Edit]:
        for index in indices:
            record, line = records[index].cells, records[index].line
            place = f"{path}, record {index}" + ("" if line is None else f" (line {line})")
            first = next(iter(known.values()))
            layout = next((known[column] for column in known if column in record), first)
            try:
                yield from layout(record, f"{name}/{index}")
            except EditError as error:
                raise EditError(f"{place}: {error}") from None

    seen = FactIndex()
    calibration = [_fact(edit) for edit in _distinct(made(order[:held_back]), seen)]
    limit = edits if edits is not None and edits > 0 else None
    chosen = list(islice(_distinct(made(order[held_back:]), seen), limit))
    if edits is None:
        edits = len(chosen)
    if not 1 <= edits <= len(chosen):
        raise EditError(
            f"{path} has {len(records)} records; {held_back} are held back for calibration, so it "
            f"gives 1 to {len(chosen)} edits, not {edits}"
        )
    return EditStream.from_edits(
        chosen, batch_size, name=name, seed=seed, order="random", calibration=tuple(calibration)
    )


def _distinct(edits: Iterable[Edit], seen: FactIndex) -> Iterator[Edit]:
    """The edits whose prompt was not seen yet, in these words or as a rephrase."""
    for edit in edits:
        if not seen.same(edit):
            seen.add(edit)
            yield edit


def _fact(edit: Edit) -> CalibrationFact:
    """What an edit asks, in two phrasings: without a rephrase, the passage and its second half."""
    words = edit.prompt.split()
    half = " ".join(words[len(words) // 2 :])
    other = edit.rephrases[0].prompt if edit.rephrases else half
    return CalibrationFact(
        subject=edit.subject or edit.prompt,
        relation=edit.relation or ANY,
        prompts=(edit.prompt, other),
    )


def _read(path: Path, encoding: str | None) -> Sequence[Row]:
    if path.suffix != ".parquet":
        return json_records(path, encoding)
    try:
        records = pyarrow.parquet.read_table(path).to_pylist()
    except FileNotFoundError:
        raise EditError(
            f"{path} does not exist; download the data set's file and pass where it lies, or let "
            "datasets.fetch find it"
        ) from None
    except (ValueError, OSError) as error:
        raise EditError(f"{path} is no Parquet file: {error}; get it anew") from None
    return [Row(number, None, record) for number, record in enumerate(records, start=1)]
