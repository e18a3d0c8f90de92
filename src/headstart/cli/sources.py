"""Where pictures and labels come from, as options: the same ones for every command that reads them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from headstart.errors import UsageError

if TYPE_CHECKING:
    from headstart.data import Rules, Samples, Table

_TABLE = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Source:
    """The pictures that a command works on: its argument and options, and how to read them.

    A command gets it by `@takes_source` and a parameter `source: Source`.
    """

    folder: Annotated[
        str,
        typer.Argument(
            metavar="DIR",
            help="Class folders, train/valid/test folders of them, a .csv or .parquet, tar shards (a folder, "
            "a pattern such as 'part-{000..011}.tar'), a .zip, or a URL of a table or shards.",
        ),
    ]
    labels: Annotated[
        str | None, typer.Option(help="A table (CSV, Parquet) with the labels of the pictures in DIR.")
    ] = None
    image_column: Annotated[
        str | None, typer.Option(help="The column of the picture's name. Default: the first.")
    ] = None
    label_column: Annotated[
        str | None,
        typer.Option(help="The column of the label. Default: the second. Of shards: the field of the JSON."),
    ] = None
    label_delimiter: Annotated[
        str | None, typer.Option(help="What separates several tags in a label, such as ' '.")
    ] = None
    one_hot: Annotated[
        list[str] | None,
        typer.Option(help="Columns of 0 and 1, one for each tag: a,b,c, or the option once for each."),
    ] = None
    split_column: Annotated[str | None, typer.Option(help="The column that says train, valid or test.")] = (
        None
    )
    group_column: Annotated[
        str | None, typer.Option(help="The column whose equal cells stay on one side of the split.")
    ] = None
    picture_folder: Annotated[
        str, typer.Option("--folder", help="The folder of the pictures that a table names.")
    ] = ""
    suffix: Annotated[str, typer.Option(help="What the names in a table lack, such as .jpg.")] = ""
    no_header: Annotated[bool, typer.Option("--no-header", help="The CSV has no line of names.")] = False
    encoding: Annotated[str, typer.Option(help="How the CSV is encoded.")] = "utf-8"
    unlabelled: Annotated[
        str, typer.Option(help="Rows without a label: refuse, test (predict them) or skip.")
    ] = "refuse"
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out rows whose picture is not there.")
    ] = False
    allow_outside: Annotated[
        bool, typer.Option("--allow-outside", help="Let a table name pictures outside DIR.")
    ] = False
    label_regex: Annotated[
        str | None, typer.Option(help="The label is the group of this pattern in each picture's path.")
    ] = None
    test_set: Annotated[
        str | None, typer.Option(help="A folder or table of test pictures, with labels or without.")
    ] = None
    drop_empty_classes: Annotated[
        bool, typer.Option("--drop-empty-classes", help="Leave out class folders without pictures.")
    ] = False
    drop_unseen_classes: Annotated[
        bool, typer.Option("--drop-unseen-classes", help="Leave out classes that train has not.")
    ] = False
    limit: Annotated[
        int | None, typer.Option(min=1, help="A quick trial with so many pictures, each class in its share.")
    ] = None

    @property
    def run_path(self) -> Path:
        """A path whose last part names a run after its pictures."""
        name = re.sub(r"[{*?\[].*", "", self.folder.rstrip("/")) or "pictures"
        name = re.sub(r"^\w+://", "", name)
        path = Path(name)
        return path.with_suffix("") if path.suffix in (*_TABLE, ".tar", ".zip") else path

    def read(self, *, seed: int = 0) -> Samples:
        """Read the samples: names, labels and parts; no picture is opened.

        Raises `UsageError` for options that do not go together, and what the readers in `data` raise.
        """
        from headstart.data import limit_samples

        samples = self._with_test_set(self._read())
        return samples if self.limit is None else limit_samples(samples, self.limit, seed=seed)

    def _read(self) -> Samples:
        from headstart import data

        place = self.folder
        is_table = self.labels is not None or place.lower().endswith(_TABLE)
        if self.label_regex is not None and is_table:
            raise UsageError("labels come from a table or from --label-regex, not from both")
        if is_table:
            return self._table()
        self._refuse_table_options()
        if self.label_regex is not None:
            return data.from_regex(place, self.label_regex, rules=self._rules())
        if place.lower().endswith(".zip"):
            return data.from_zip(
                place,
                drop_empty_classes=self.drop_empty_classes,
                drop_unseen_classes=self.drop_unseen_classes,
            )
        if _are_shards(place):
            return data.from_shards(
                place, label=self.label_column, label_delimiter=self.label_delimiter, rules=self._rules()
            )
        return data.scan_folder(
            place,
            drop_empty_classes=self.drop_empty_classes,
            drop_unseen_classes=self.drop_unseen_classes,
        )

    def _rules(self) -> Rules:
        from headstart.data import Rules

        return Rules(
            folder=self.picture_folder,
            suffix=self.suffix,
            unlabelled=self.unlabelled,  # type: ignore[arg-type]  # Rules checks it
            skip_missing=self.skip_missing,
            allow_outside=self.allow_outside,
            drop_unseen_classes=self.drop_unseen_classes,
        )

    def _columns(self) -> Table:
        from headstart.data import Table

        return Table(
            **dataclasses.asdict(self._rules()),
            image=0 if self.image_column is None else self.image_column,
            label=1 if self.label_column is None else self.label_column,
            label_delimiter=self.label_delimiter,
            one_hot=tuple(name for text in self.one_hot or () for name in text.split(",")),
            split=self.split_column,
            group=self.group_column,
            header=not self.no_header,
            encoding=self.encoding,
        )

    def _table(self) -> Samples:
        from headstart.data import read_table

        if self.labels is None:
            return read_table(self.folder, self._columns())
        if "://" in self.folder:
            table = self.labels if "://" in self.labels else f"{self.folder.rstrip('/')}/{self.labels}"
            return read_table(table, self._columns(), root=self.folder.rstrip("/"))
        root = Path(self.folder).expanduser().absolute()
        inside = root / self.labels
        table = str(inside) if inside.is_file() else self.labels
        return read_table(table, self._columns(), root=root)

    def _refuse_table_options(self) -> None:
        given = [
            f"--{name.replace('_', '-')}"
            for name in ("image_column", "one_hot", "split_column", "group_column", "skip_missing", "suffix")
            if getattr(self, name)
        ] + (["--folder"] if self.picture_folder else [])
        if not _are_shards(self.folder):
            given += ["--label-column"] if self.label_column else []
            given += ["--label-delimiter"] if self.label_delimiter else []
        if given:
            raise UsageError(f"{', '.join(given)}: only a table has this", "name the table with --labels")

    def _with_test_set(self, samples: Samples) -> Samples:
        from headstart.data import read_test_set, with_test_set

        if self.test_set is None:
            return samples
        if not self.test_set.lower().endswith(_TABLE):
            return with_test_set(samples, read_test_set(self.test_set, samples.classes))
        from headstart.data import read_table

        columns = replace(self._columns(), classes=samples.classes, unlabelled="test", split=None)
        return with_test_set(samples, read_table(self.test_set, columns))


def _are_shards(place: str) -> bool:
    """Tell whether a place is meant as tar shards; a folder of class folders may have a .tar beside them."""
    if "://" in place or place.lower().endswith((".tar", ".tar.gz", ".tgz")):
        return True
    if os.path.isdir(place):
        with os.scandir(place) as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
        return any(name.endswith(".tar") for name, _ in found) and not any(folder for _, folder in found)
    return bool(re.search(r"[{*?\[]", place))


def takes_source(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the argument and the options of `Source`, in place of its parameter `source`.

    Arguments that stand before it in the function come before it on the command line, too.
    """
    fields = {item.name: item for item in dataclasses.fields(Source)}
    kinds = get_type_hints(Source, include_extras=True)
    own = inspect.signature(command, eval_str=True)

    def run(**given: Any) -> int:
        source = Source(**{name: given.pop(name) for name in fields})
        return command(source=source, **given)

    functools.update_wrapper(run, command, assigned=("__name__", "__doc__", "__module__"))
    del run.__wrapped__  # type: ignore[attr-defined]  # the options are those of the signature below
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if item.default is dataclasses.MISSING else item.default,
            annotation=kinds[name],
        )
        for name, item in fields.items()
    ]
    place = list(own.parameters).index("source")
    others = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own.parameters.values()]
    run.__signature__ = own.replace(parameters=[*others[:place], *options, *others[place + 1 :]])  # type: ignore[attr-defined]
    return run
