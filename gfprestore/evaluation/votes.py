"""Tally of the votes of a user study: share of each method with 95 % intervals.

Two intervals are given. Wilson's treats all votes as independent. The bootstrap over voters does not, and is the one
to quote where there are several voters: votes of one person are alike.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfprestore.errors import FolderError, UsageError
from gfprestore.evaluation.intervals import Estimate, grouped_share_interval, wilson_interval
from gfprestore.evaluation.study import StudyKey

FORMAT, VERSION = "gfprestore-votes", 1
LARGEST_FILE = 16 << 20  # bytes


@dataclass(frozen=True)
class Vote:
    """One answer: the question, and the methods that were and were not chosen."""

    question: str
    chosen: str
    other: str


@dataclass(frozen=True)
class Ballot:
    """The votes of one voter."""

    voter: str
    votes: tuple[Vote, ...]


@dataclass(frozen=True)
class Share:
    """How often a method was chosen.

    Attributes:
        name: The method, or both methods of a pair, the chosen one first.
        chosen: Number of votes for it.
        asked: Number of votes in which it stood.
        wilson: Share and Wilson's interval; None without votes.
        by_voters: Share and the bootstrap interval over voters; None for fewer than two voters.
    """

    name: str
    chosen: int
    asked: int
    wilson: Estimate | None
    by_voters: Estimate | None


@dataclass(frozen=True)
class Tally:
    """Result of a study.

    Attributes:
        study: Random name of the study.
        voters: Number of voters.
        votes: Number of votes.
        reference: The originals were shown.
        methods: Share of each method over all its comparisons, the highest first.
        pairs: Share of the first of two methods against the second.
    """

    study: str
    voters: int
    votes: int
    reference: bool
    methods: tuple[Share, ...]
    pairs: tuple[Share, ...]


def find_files(paths: Sequence[Path]) -> list[Path]:
    """The files of votes; a folder stands for its JSON files.

    Raises:
        FolderError: A path does not exist, or a folder has no JSON files.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            files = sorted(path.glob("*.json"))
            if not files:
                raise FolderError(f"{path} has no JSON files. Name the files that the voters saved with --votes.")
            found += files
        elif path.is_file():
            found.append(path)
        else:
            raise FolderError(f"{path} does not exist. Name the files that the voters saved with --votes.")
    return list(dict.fromkeys(path.resolve() for path in found))


def read_ballot(path: Path, key: StudyKey) -> Ballot:
    """Read the votes of one voter.

    Raises:
        UsageError: The file is damaged, belongs to another study, or has an impossible vote.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE >> 20} MB")
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError("it is not a file of votes")
        if document.get("version") != VERSION:
            raise ValueError(f"its version is {document.get('version')!r}, not {VERSION}")
        study, voter, votes = document["study"], document["voter"], document["votes"]
        if not (isinstance(study, str) and isinstance(voter, str) and voter and isinstance(votes, list)):
            raise ValueError("study, voter or votes are missing")
    except (OSError, ValueError, KeyError, RecursionError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path} cannot be used: {reason}. Ask the voter to save the votes again.") from error
    if study != key.study:
        raise UsageError(f"{path} has votes of another study ({study}, not {key.study}). Leave it out of --votes.")
    if not votes:
        raise UsageError(f"{path} has no votes. Leave it out of --votes.")
    found = tuple(_vote_of(entry, number, key, path) for number, entry in enumerate(votes, 1))
    answered = [vote.question for vote in found]
    if len(set(answered)) < len(answered):
        raise UsageError(f"{path} answers a question twice. Leave it out of --votes.")
    return Ballot(voter, found)


def read_ballots(paths: Sequence[Path], key: StudyKey) -> list[Ballot]:
    """Read the votes of all voters.

    Raises:
        FolderError: A path does not exist.
        UsageError: A file is damaged or does not fit the study, or two files are of one voter.
    """
    ballots: dict[str, tuple[Path, Ballot]] = {}
    for path in find_files(paths):
        ballot = read_ballot(path, key)
        if ballot.voter in ballots:
            raise UsageError(
                f"{path} and {ballots[ballot.voter][0]} are of the same voter. Leave one of them out of --votes."
            )
        ballots[ballot.voter] = (path, ballot)
    return [ballot for _, ballot in ballots.values()]


def tally(ballots: Sequence[Ballot], key: StudyKey) -> Tally:
    """Count the votes.

    Args:
        ballots: One per voter.
        key: Key of the study.
    """
    methods = [_share(name, ballots, functools.partial(_of, name)) for name in key.methods]
    pairs = [
        _share(f"{one} over {other}", ballots, functools.partial(_of_pair, one, other))
        for one, other in itertools.combinations(key.methods, 2)
    ]
    methods.sort(key=lambda share: -1.0 if share.wilson is None else share.wilson.value, reverse=True)
    count = sum(len(ballot.votes) for ballot in ballots)
    return Tally(key.study, len(ballots), count, key.reference, tuple(methods), tuple(pairs))


def as_json(found: Tally) -> dict[str, Any]:
    """The tally as a JSON object."""
    return {
        "study": found.study,
        "voters": found.voters,
        "votes": found.votes,
        "originals_shown": found.reference,
        "methods": [_share_json(share) for share in found.methods],
        "pairs": [_share_json(share) for share in found.pairs],
    }


def table_of(shares: Sequence[Share]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table of shares."""
    columns = ["method", "chosen", "of", "share", "95 % interval (Wilson)", "95 % interval (over voters)"]
    rows = []
    for share in shares:
        value = "–" if share.wilson is None else f"{share.wilson.value:.1%}"
        rows.append(
            [share.name, str(share.chosen), str(share.asked), value, _range(share.wilson), _range(share.by_voters)]
        )
    return columns, rows


def _vote_of(entry: Any, number: int, key: StudyKey, path: Path) -> Vote:
    """A vote of a file, checked against the key."""
    where = f"{path}, vote {number}"
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in ("question", "chosen")):
        raise UsageError(f"{where} is damaged. Ask the voter to save the votes again.")
    question = key.questions.get(entry["question"])
    if question is None:
        raise UsageError(f"{where} answers a question that this study does not have. Leave the file out of --votes.")
    sides = {entry.get("left"), entry.get("right")}
    if sides != set(question.methods) or entry["chosen"] not in question.methods:
        raise UsageError(f"{where} chooses an image that its question does not show. Leave the file out of --votes.")
    (other,) = (file for file in question.methods if file != entry["chosen"])
    return Vote(entry["question"], question.methods[entry["chosen"]], question.methods[other])


def _of(name: str, vote: Vote) -> bool | None:
    """Whether a method was chosen; None if it was not shown."""
    return vote.chosen == name if name in (vote.chosen, vote.other) else None


def _of_pair(one: str, other: str, vote: Vote) -> bool | None:
    return vote.chosen == one if {vote.chosen, vote.other} == {one, other} else None


def _share(name: str, ballots: Sequence[Ballot], answer: Callable[[Vote], bool | None]) -> Share:
    chosen: Mapping[str, list[bool]] = defaultdict(list)
    for ballot in ballots:
        for vote in ballot.votes:
            found = answer(vote)
            if found is not None:
                chosen[ballot.voter].append(found)
    hits, totals = [sum(votes) for votes in chosen.values()], [len(votes) for votes in chosen.values()]
    return Share(
        name, sum(hits), sum(totals), wilson_interval(sum(hits), sum(totals)), grouped_share_interval(hits, totals)
    )


def _share_json(share: Share) -> dict[str, Any]:
    def interval(estimate: Estimate | None) -> list[float] | None:
        return None if estimate is None else [estimate.low, estimate.high]

    return {
        "name": share.name,
        "chosen": share.chosen,
        "asked": share.asked,
        "share": None if share.wilson is None else share.wilson.value,
        "wilson_95": interval(share.wilson),
        "over_voters_95": interval(share.by_voters),
    }


def _range(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate.low:.1%} to {estimate.high:.1%}"
