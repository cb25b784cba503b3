"""Reads a recipe from a file or a mapping into checked tables and components, and reports every problem at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from adkit.errors import UserError
from adkit.plugin.component import Kind
from adkit.plugin.params import Params, found, model_schema
from adkit.plugin.registry import Registered, Registry, discover
from adkit.recipe.document import Document, KeyPath, Problem, parse_toml, read_document
from adkit.recipe.problems import check, unknown_key
from adkit.recipe.shipped import ShippedRecipe
from adkit.recipe.sweep import SWEEP
from adkit.recipe.tables import LogTable, RunTable, ScorerTable, ThresholdTable, TrainingTable
from adkit.toolkit.features import FeaturesTable
from adkit.utils.text import did_you_mean, joined, near, toml_value, without_credentials

if TYPE_CHECKING:
    from adkit.data.formats.base import DataTable

__all__ = ["Choice", "Recipe", "parse_toml", "read_recipe", "resolved"]

TABLES: Final = (
    "run",
    "data",
    "extractor",
    "features",
    "adapter",
    "training",
    "stopper",
    "auxiliary",
    "scorer",
    "localizer",
    "threshold",
    "log",
)
"""Every table of a recipe, in the order in which a resolved one has them."""

DEFAULT_USE: Final[Mapping[Kind, str]] = MappingProxyType({"extractor": "timm", "localizer": "bilinear"})
"""Kind → the component that a table without ``use`` names."""

DEFAULT_FORMAT: Final = "mvtec"

CORE_TABLES: Final[Mapping[str, type[Params]]] = MappingProxyType(
    {
        "run": RunTable,
        "features": FeaturesTable,
        "training": TrainingTable,
        "threshold": ThresholdTable,
        "log": LogTable,
    }
)
"""Table → its model, for the tables whose keys are adkit's own whatever components the recipe names."""

BACKBONE: Final = "backbone"
"""The key of ``[extractor]`` whose value may be a list, which makes an ensemble of any extractor."""

AS_DATA: Final = "these images are resized as those of [data] are"
WITHOUT_EFFECT: Final[Mapping[str, str]] = MappingProxyType(
    dict.fromkeys(("resize", "image_size", "crop", "metric_size", "mask_resize", "batch_size"), AS_DATA)
    | {"range": "these images are read as those of [data] are", "calibration": "none of these images are kept back"}
)
"""Key that ``[auxiliary]`` shares with ``[data]`` and cannot use → why."""

NEED_ADAPTER: Final = ("training", "stopper", "auxiliary")

P = TypeVar("P", bound=Params)
T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """A component that a recipe chooses, with the parameters that the recipe gives it."""

    use: str
    """``Registered.use``: what a resolved recipe calls it."""
    params: Params
    registered: Registered = field(compare=False)

    @property
    def name(self) -> str:
        """The component's own name, without that of its distribution."""
        return self.registered.component.name


@dataclass(frozen=True)
class Recipe:
    """A recipe that was read and checked; two recipes are equal if they ask for the same."""

    document: Document = field(compare=False, repr=False)
    """The place where each key was written, for problems that only the data or a component can find."""
    run: RunTable
    data: DataTable
    extractors: tuple[Choice, ...]
    """The extractor, or one extractor per backbone where ``[extractor] backbone`` is a list: an ensemble."""
    features: FeaturesTable
    adapter: Choice | None
    training: TrainingTable | None
    stopper: Choice | None
    auxiliary: DataTable | None
    scorer: Choice
    scorer_table: ScorerTable
    """The keys of ``[scorer]`` that every scorer has."""
    localizer: Choice
    threshold: ThresholdTable
    log: LogTable

    @property
    def path(self) -> Path | ShippedRecipe | None:
        """Where it was read; None where its tables come from Python."""
        return self.document.path

    @property
    def choices(self) -> list[tuple[Kind, Choice]]:
        """Every component that the recipe chooses, with its kind."""
        named: list[tuple[Kind, Choice | None]] = [
            *(("extractor", extractor) for extractor in self.extractors),
            ("adapter", self.adapter),
            ("stopper", self.stopper),
            ("scorer", self.scorer),
            ("localizer", self.localizer),
        ]
        return [(kind, choice) for kind, choice in named if choice is not None]


def read_recipe(
    source: Path | str | Mapping[str, Any], overrides: Sequence[str] = (), registry: Registry | None = None
) -> Recipe:
    """Read a recipe and check it.

    Args:
        source: a file, the name of a recipe that ships with adkit, or the recipe's tables.
        overrides: ``"scorer.k=5"`` and the like: a dotted key and a TOML value, or else a bare string.
        registry: the components to choose from; default: those of the installed plugins.

    Raises:
        UserError: the recipe has problems; all of them are listed, each with its file, line and dotted key.
    """
    document = read_document(source, overrides)
    # Only a file that parsed is worth the imports of every plugin.
    return _Reader(document, discover() if registry is None else registry).recipe()


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe's tables with every default spelled out, for ``tomli_w``; reading them gives an equal recipe.

    But for a password in ``log.mlflow``, which is left out: these tables are kept and shown.
    """
    tables: dict[str, dict[str, Any] | None] = {
        "run": _dumped(recipe.run),
        "data": _dumped(recipe.data),
        "extractor": _extractor_table(recipe.extractors),
        "features": _dumped(recipe.features),
        "adapter": _choice_table(recipe.adapter),
        "training": _dumped(recipe.training),
        "stopper": _choice_table(recipe.stopper),
        "auxiliary": _without(_dumped(recipe.auxiliary), WITHOUT_EFFECT),
        "scorer": _choice_table(recipe.scorer, _dumped(recipe.scorer_table)),
        "localizer": _choice_table(recipe.localizer),
        "threshold": _dumped(recipe.threshold),
        "log": _without_password(recipe.log),
    }
    return {name: table for name, table in tables.items() if table is not None}


def _without_password(log: LogTable) -> dict[str, Any]:
    mlflow = without_credentials(log.mlflow) if isinstance(log.mlflow, str) else log.mlflow
    return {**log.model_dump(mode="json"), "mlflow": mlflow}


def _choice_table(choice: Choice | None, own: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    return None if choice is None else {"use": choice.use, **(own or {}), **(_dumped(choice.params) or {})}


def _extractor_table(choices: Sequence[Choice]) -> dict[str, Any]:
    """The one table that stands for all extractors of an ensemble: the inverse of ``_Reader.members``."""
    tables = [_choice_table(choice) or {} for choice in choices]
    if len(tables) == 1:
        return tables[0]
    keys = dict.fromkeys(key for table in tables for key in table)
    joined = {key: [table[key] for table in tables] for key in keys}
    return {
        key: values[0] if key != BACKBONE and all(value == values[0] for value in values) else values
        for key, values in joined.items()
    }


def _without(table: dict[str, Any] | None, keys: Collection[str]) -> dict[str, Any] | None:
    return None if table is None else {key: value for key, value in table.items() if key not in keys}


def _dumped(params: Params | None) -> dict[str, Any] | None:
    return None if params is None else params.model_dump(mode="json", by_alias=True, exclude_none=True)


class _Reader:
    """Reads one document, and collects its problems."""

    def __init__(self, document: Document, registry: Registry) -> None:
        self.document = document
        self.registry = registry
        self.problems: list[Problem] = []

    def recipe(self) -> Recipe:
        self.unknown_tables()
        run = self.model("run", RunTable, {"name": self.document.path.stem} if self.document.path else {})
        data = self.data("data")
        extractors = self.extractors()
        features = self.model("features", FeaturesTable)
        adapter = self.optional("adapter", lambda: self.choice("adapter"))
        training = self.optional("training", lambda: self.model("training", TrainingTable))
        stopper = self.optional("stopper", lambda: self.choice("stopper"))
        auxiliary = self.optional("auxiliary", self.auxiliary)
        common = self.scorer_table()
        scorer = self.choice("scorer", own=tuple(ScorerTable.model_fields))
        localizer = self.choice("localizer")
        threshold = self.model("threshold", ThresholdTable)
        log = self.model("log", LogTable)
        self.needs_adapter(common)
        if run is not None and threshold is not None and run.folds > 1 and threshold.method == "cross":
            self.problem(("run", "folds"), 'expected 1 with threshold.method = "cross", which has folds of its own')
        if run is not None and data is not None and threshold is not None and data.range == "auto":
            several = "threshold.method" if threshold.method == "cross" else "run.folds" if run.folds > 1 else None
            if several is not None:
                self.problem(
                    ("data", "range"),
                    f'expected [low, high] with {several}, by which every normal image is held out once, found "auto": '
                    "adkit check without it tells a range",
                )
        if self.problems:
            raise UserError(dict.fromkeys(problem.text for problem in sorted(self.problems)))
        # Without a problem, none of them is None; mypy cannot know it.
        assert run is not None
        assert data is not None
        assert extractors is not None
        assert features is not None
        assert common is not None
        assert scorer is not None
        assert localizer is not None
        assert threshold is not None
        assert log is not None
        return Recipe(
            document=self.document,
            run=run,
            data=data,
            extractors=extractors,
            features=features,
            adapter=adapter,
            training=training,
            stopper=stopper,
            auxiliary=auxiliary,
            scorer=scorer,
            scorer_table=common,
            localizer=localizer,
            threshold=threshold,
            log=log,
        )

    def problem(self, path: KeyPath, sentence: str, at: KeyPath | None = None) -> None:
        self.problems.append(self.document.problem(path, sentence, at))

    def optional(self, name: str, read: Callable[[], T]) -> T | None:
        return read() if name in self.document.values else None

    def table(self, name: str) -> dict[str, Any] | None:
        """The table's values, empty where the recipe lacks it; None, and a problem, where it is not a table."""
        table = self.document.values.get(name, {})
        if isinstance(table, dict):
            return table
        self.problem((name,), f"expected a table, found {found(table)}: write [{name}] on a line of its own")
        return None

    def model(self, name: str, model: type[P], defaults: Mapping[str, Any] = MappingProxyType({})) -> P | None:
        table = self.table(name)
        return None if table is None else self.check(name, model, {**defaults, **table}, f"[{name}]")

    def check(self, name: str, model: type[P], table: Mapping[str, Any], taker: str) -> P | None:
        checked, faults = check(model, table, taker)
        for fault in faults:
            path = (name, *fault.path)
            self.problem(path, fault.sentence, at=path[:-1] if fault.missing else path)
        return checked

    def data(self, name: str) -> DataTable | None:
        if name not in self.document.values:
            self.problem((name,), f'missing; say where the images are: [{name}] with root = "folder"')
            return None
        table = self.table(name)
        if table is None:
            return None
        from adkit.data.formats import FORMATS  # brings NumPy: only for a recipe that parsed

        chosen = table.get("format", DEFAULT_FORMAT)
        if not isinstance(chosen, str) or chosen not in FORMATS:
            hint = did_you_mean(chosen, FORMATS) if isinstance(chosen, str) else ""
            options = ", ".join(map(toml_value, FORMATS))
            self.problem((name, "format"), f"expected one of {options}, found {found(chosen)}{hint}")
            return None
        model, taker = FORMATS[chosen], f'[{name}] of format "{chosen}"'
        homes = {key: [other for other, keys in FORMATS.items() if key in keys.model_fields] for key in table}
        elsewhere = {key: others for key, others in homes.items() if others and chosen not in others}
        for key, others in elsewhere.items():
            belongs_to = f"format{'s' * (len(others) > 1)} {joined(others, 'and')}"
            self.problem((name, key), unknown_key(key, model_schema(model), taker, belongs_to))
        own = {key: value for key, value in table.items() if key not in elsewhere}
        return self.check(name, model, own, taker)

    def auxiliary(self) -> DataTable | None:
        table = self.document.values["auxiliary"]
        for key in WITHOUT_EFFECT if isinstance(table, dict) else ():
            if key in table:
                self.problem(("auxiliary", key), f"has no effect, because {WITHOUT_EFFECT[key]}: remove it")
        return self.data("auxiliary")

    def scorer_table(self) -> ScorerTable | None:
        table = self.document.values.get("scorer")
        own = {key: table[key] for key in ScorerTable.model_fields if key in table} if isinstance(table, dict) else {}
        return self.check("scorer", ScorerTable, own, "[scorer]")

    def choice(self, kind: Kind, own: Sequence[str] = ()) -> Choice | None:
        table = self.table(kind)
        return None if table is None else self.choose(kind, table, own)

    def extractors(self) -> tuple[Choice, ...] | None:
        table = self.table("extractor")
        if table is None:
            return None
        choices = tuple(self.choose("extractor", one) for one in self.members(table))
        found = tuple(choice for choice in choices if choice is not None)
        for index, choice in enumerate(found):
            if choice in found[:index]:
                self.problem(("extractor", BACKBONE), "expected members that differ, found two alike; remove one")
        return found if len(found) == len(choices) else None

    def members(self, table: dict[str, Any]) -> list[dict[str, Any]]:
        """The table of each member: a list of backbones makes an ensemble, whose members share out a list of lists."""
        backbones = table.get(BACKBONE)
        if not isinstance(backbones, list) or not backbones:
            return [table]

        def own(key: str, value: Any, index: int) -> Any:
            several = isinstance(value, list) and len(value) == len(backbones)
            return value[index] if several and (key == BACKBONE or all(isinstance(v, list) for v in value)) else value

        return [{key: own(key, value, index) for key, value in table.items()} for index in range(len(backbones))]

    def choose(self, kind: Kind, table: Mapping[str, Any], own: Sequence[str] = ()) -> Choice | None:
        """The component that a table names, with its parameters: all keys but ``use`` and ``own``."""
        use = table.get("use", DEFAULT_USE.get(kind))
        if not isinstance(use, str):
            self.no_use(kind, table)
            return None
        try:
            registered = self.registry.get(kind, use)
        except UserError as error:
            for sentence in error.problems:
                self.problem((kind, "use"), sentence)
            return None
        given = {key: value for key, value in table.items() if key not in ("use", *own)}
        params = self.check(kind, registered.component.params, given, use)
        return None if params is None else Choice(registered.use, params, registered)

    def no_use(self, kind: Kind, table: Mapping[str, Any]) -> None:
        names = ", ".join(self.registry.names(entry)[0] for entry in self.registry.usable(kind)) or "none"
        if "use" in table:
            sentence = f"expected the name of {_a(kind)}, found {found(table['use'])}; {kind}s here: {names}"
            self.problem((kind, "use"), sentence)
            return
        typo = near("use", table)
        hint = f" (did you mean use where it says {typo[0]}?)" if typo else ""
        self.problem((kind, "use"), f"missing; name {_a(kind)}: {names}{hint}", at=(kind,))

    def unknown_tables(self) -> None:
        for name, value in self.document.values.items():
            if name in TABLES or name == SWEEP:
                continue
            if isinstance(value, dict):
                known = ", ".join(f"[{table}]" for table in (*TABLES, SWEEP))
                self.problem((name,), f"unknown table; a recipe has {known}{did_you_mean(name, TABLES)}")
                continue
            homes = [table for table, model in CORE_TABLES.items() if name in model.model_fields]
            hint = f"; write it under [{homes[0]}]" if homes else ", and every key of a recipe must be in one"
            self.problem((name,), f"this key is in no table{hint}")

    def needs_adapter(self, common: ScorerTable | None) -> None:
        values = self.document.values
        if "adapter" in values:
            return
        because = "needs an [adapter] table, without which nothing is trained: add one or remove"
        for name in NEED_ADAPTER:
            if name in values:
                self.problem((name,), f"{because} [{name}]")
        if common is not None and common.fit == "initial":
            self.problem(("scorer", "fit"), f"{because} this key")


def _a(kind: Kind) -> str:
    return f"an {kind}" if kind[0] in "ae" else f"a {kind}"
