"""Records: a list of like things that is a table, too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from headstart.evaluation.metrics import Interval

if TYPE_CHECKING:
    from dataclasses import Field

    import pandas


class Record(Protocol):
    """Any dataclass of plain values and intervals."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


R = TypeVar("R", bound=Record)


class Records(list[R]):
    """A list of records of one `kind`; a notebook shows it as a table.

    >>> from headstart.evaluation import Confusion
    >>> Records(Confusion, [Confusion("cat", "dog", 3)]).to_frame().columns.tolist()
    ['truth', 'prediction', 'count']
    """

    def __init__(self, kind: type[R], records: Iterable[R] = ()) -> None:
        super().__init__(records)
        self.kind = kind

    def to_frame(self) -> pandas.DataFrame:
        """Return a DataFrame with a column for each field; of an interval also `_low` and `_high`."""
        import pandas

        rows = [_cells(record) for record in self]
        # Without a row there are no intervals to tell apart, but the columns keep their names.
        names = list(rows[0]) if rows else [field.name for field in fields(self.kind)]
        return pandas.DataFrame(rows, columns=names)

    def _repr_html_(self) -> str:
        return str(self.to_frame().to_html(index=False))


def _cells(record: Record) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Interval):
            cells |= {
                field.name if name == "value" else f"{field.name}_{name}": figure
                for name, figure in asdict(value).items()
            }
        else:
            cells[field.name] = value
    return cells
