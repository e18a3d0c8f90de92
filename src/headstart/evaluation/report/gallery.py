"""Pictures that belong together: those of a confusion, of a class that is found, of what is unsure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from headstart.evaluation.interpret import Example, Interpretation
from headstart.evaluation.interpret_tags import TagInterpretation

TABLE_CLASSES = 20
"""A confusion matrix of more classes is drawn as a map, which has a list of pairs beside it."""

MAP_PAIRS = 60
STRIPS = 8
PICTURES_PER_STRIP = 4
"""The most confused pairs (or most mistaken tags) stand on the page with some pictures of each."""

PICTURES_PER_PAIR = 8
PICTURES_PER_CLASS = 6
UNSURE = 6
MISSED, INVENTED = "Missed", "Said wrongly"


@dataclass(frozen=True)
class Group:
    """Some of `count` pictures of one kind, the most telling first."""

    title: str
    count: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Gallery:
    """Groups of pictures about a cell of the confusion matrix, or about a tag.

    `place`: the numbers of truth and prediction; of a tag, its number twice.
    """

    place: tuple[int, int]
    groups: tuple[Group, ...]

    @property
    def count(self) -> int:
        """How many pictures it is about."""
        return sum(group.count for group in self.groups)

    @property
    def examples(self) -> list[Example]:
        """The pictures of all groups, each once."""
        return list({example.index: example for group in self.groups for example in group.examples}.values())

    def only(self, rows: set[int], fewest: int = 0) -> Gallery:
        """Return it with those pictures alone that are in `rows`, but at least the first `fewest` of each."""
        groups = tuple(
            replace(
                group,
                examples=tuple(each for each in group.examples if each.index in rows)
                or group.examples[:fewest],
            )
            for group in self.groups
        )
        return replace(self, groups=tuple(group for group in groups if group.examples))


def of_pairs(interpretation: Interpretation) -> list[Gallery]:
    """Return a gallery for each confusion, most frequent first; of many classes of the first 60."""
    classes = interpretation.predictions.classes
    numbers = {name: number for number, name in enumerate(classes)}
    pairs = interpretation.most_confused(min_count=1)
    return [
        Gallery(
            (numbers[pair.truth], numbers[pair.prediction]),
            (Group("", pair.count, tuple(interpretation.mistaken(pair, PICTURES_PER_PAIR))),),
        )
        for pair in (pairs if len(classes) <= TABLE_CLASSES else pairs[:MAP_PAIRS])
    ]


def most_confused(pairs: Sequence[Gallery]) -> list[Gallery]:
    """Return the first pairs that were mistaken more than once; where none was, those that were at all."""
    return ([each for each in pairs if each.count > 1] or list(pairs))[:STRIPS]


def of_classes(interpretation: Interpretation) -> list[Gallery]:
    """Return a gallery for each class that was found: its least sure pictures, and its surest."""
    found = []
    for number, name in enumerate(interpretation.predictions.classes):
        hits = list(interpretation.most_correct(len(interpretation.predictions), label=name))
        least = hits[::-1][:PICTURES_PER_CLASS]
        surest = hits[: min(PICTURES_PER_CLASS, len(hits) - len(least))]
        groups = (Group("Least sure", len(hits), tuple(least)), Group("Surest", 0, tuple(surest)))
        if hits:
            found.append(Gallery((number, number), tuple(group for group in groups if group.examples)))
    return found


def of_tags(view: TagInterpretation) -> list[Gallery]:
    """Return a gallery for each tag: where it was missed, wrongly said, and rightly said, surest first."""
    found = []
    for number, each in enumerate(view.confusion()):
        ways = (
            (MISSED, each.missed, view.most_missed, PICTURES_PER_PAIR),
            (INVENTED, each.invented, view.most_invented, PICTURES_PER_PAIR),
            ("Said rightly, surest first", each.both, view.most_correct, PICTURES_PER_CLASS),
        )
        groups = tuple(
            Group(title, count, tuple(pick(most, tag=each.tag))) for title, count, pick, most in ways if count
        )
        if groups:
            found.append(Gallery((number, number), groups))
    return found


def unsure(interpretation: Interpretation | TagInterpretation) -> list[Group]:
    """Return the pictures that the model is least sure of: most even, and nearest to another answer."""
    even = interpretation.most_uncertain(UNSURE)
    if isinstance(interpretation, TagInterpretation):
        # Not the nearest to a threshold: a table of predictions keeps those of tags only roughly.
        return [Group("Tags nearest to half and half", 0, tuple(even))]
    groups = [Group("Closest calls between two classes", 0, tuple(interpretation.lowest_margin(UNSURE)))]
    # Of two classes the most even are the closest calls.
    if len(interpretation.predictions.classes) > 2:
        groups.append(Group("Spread over the most classes", 0, tuple(even)))
    return groups


def in_turns(galleries: Sequence[Gallery], most: int | None = None) -> Iterator[int]:
    """Yield the rows of the galleries' pictures, at most `most` each: the first of each, then the second."""
    shown = [gallery.examples[:most] for gallery in galleries]
    for turn in range(max(map(len, shown), default=0)):
        for examples in shown:
            if turn < len(examples):
                yield examples[turn].index
