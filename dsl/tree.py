"""The syntax tree. Every node knows where it stands: `start` and `end` are offsets into its file's text."""

from __future__ import annotations

from dataclasses import dataclass, field

from detc.dsl.source import Source, Span


@dataclass(slots=True, eq=False)
class Tree:
    start: int
    end: int


# ---- expressions ----------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Literal(Tree):
    """A number, string, boolean or none."""

    value: int | float | str | bool | None


@dataclass(slots=True, eq=False)
class Name(Tree):
    name: str


@dataclass(slots=True, eq=False)
class Template(Tree):
    """A label with computed parts, `` `layer{i}` ``: texts and expressions in turn."""

    parts: list[str | Expr]


@dataclass(slots=True, eq=False)
class Attribute(Tree):
    base: Expr
    name: str


@dataclass(slots=True, eq=False)
class Index(Tree):
    base: Expr
    index: Expr


@dataclass(slots=True, eq=False)
class Argument(Tree):
    name: str | None
    value: Expr


@dataclass(slots=True, eq=False)
class Call(Tree):
    function: Expr
    arguments: list[Argument]


@dataclass(slots=True, eq=False)
class Labelled(Tree):
    """`label: component`."""

    label: Expr
    body: Expr


@dataclass(slots=True, eq=False)
class Pipe(Tree):
    """`value |> stage`."""

    value: Expr
    stage: Expr


@dataclass(slots=True, eq=False)
class Unary(Tree):
    operator: str
    operand: Expr


@dataclass(slots=True, eq=False)
class Binary(Tree):
    operator: str
    left: Expr
    right: Expr


@dataclass(slots=True, eq=False)
class Conditional(Tree):
    condition: Expr
    then: Expr
    otherwise: Expr


@dataclass(slots=True, eq=False)
class Lambda(Tree):
    parameters: list[str]
    body: Expr


@dataclass(slots=True, eq=False)
class ListOf(Tree):
    items: list[Expr]


@dataclass(slots=True, eq=False)
class Tuple(Tree):
    items: list[Expr]


@dataclass(slots=True, eq=False)
class Comprehension(Tree):
    item: Expr
    variable: str
    iterable: Expr
    condition: Expr | None


@dataclass(slots=True, eq=False)
class Pyramid(Tree):
    """`{3: p3, 4: p4}`."""

    entries: list[tuple[Expr, Expr]]


@dataclass(slots=True, eq=False)
class Bundle(Tree):
    """`{scores = s, deltas = d}`."""

    entries: list[Argument]


@dataclass(slots=True, eq=False)
class With(Tree):
    """`base with { path = value ... }`."""

    base: Expr
    fields: list[Field]


Expr = (
    Literal
    | Name
    | Template
    | Attribute
    | Index
    | Call
    | Labelled
    | Pipe
    | Unary
    | Binary
    | Conditional
    | Lambda
    | ListOf
    | Tuple
    | Comprehension
    | Pyramid
    | Bundle
    | With
)


# ---- statements -----------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Target(Tree):
    """`name`, or `name[i][j]`."""

    name: str
    indices: list[Expr]


@dataclass(slots=True, eq=False)
class Assign(Tree):
    targets: list[Target]
    value: Expr


@dataclass(slots=True, eq=False)
class For(Tree):
    variable: str
    iterable: Expr
    body: list[Statement]


@dataclass(slots=True, eq=False)
class If(Tree):
    condition: Expr
    then: list[Statement]
    otherwise: list[Statement]


@dataclass(slots=True, eq=False)
class Return(Tree):
    value: Expr


@dataclass(slots=True, eq=False)
class ViewBlock(Tree):
    """`train(truth) { ... }` or `predict { ... }`."""

    view: str
    parameter: str | None
    body: list[Statement]


@dataclass(slots=True, eq=False)
class Apply(Tree):
    """`apply expr`: for what the component declares, such as losses."""

    value: Expr


@dataclass(slots=True, eq=False)
class Loss(Tree):
    name: Expr
    indices: list[Expr]
    value: Expr


@dataclass(slots=True, eq=False)
class Require(Tree):
    condition: Expr
    message: str


@dataclass(slots=True, eq=False)
class Freeze(Tree):
    labels: list[Expr]


@dataclass(slots=True, eq=False)
class Init(Tree):
    target: Expr
    rule: Expr


@dataclass(slots=True, eq=False)
class Tie(Tree):
    """`tie a to b`: the weights under label a are those under label b."""

    label: Expr
    to: Expr


# Statements of primitives only.


@dataclass(slots=True, eq=False)
class Align(Tree):
    """`align x, y`: both lie on the same grid."""

    left: Expr
    right: Expr


@dataclass(slots=True, eq=False)
class Property(Tree):
    """`result.channels = ...`."""

    result: str
    name: str
    value: Expr


@dataclass(slots=True, eq=False)
class WeightOf(Tree):
    name: str
    buffer: bool
    shape: Expr
    dtype: str
    init: Expr


@dataclass(slots=True, eq=False)
class Derived(Tree):
    """`attr name = ...`: an attribute that the kernel gets and no user sets."""

    name: str
    value: Expr


@dataclass(slots=True, eq=False)
class DefaultLabel(Tree):
    name: str


Statement = (
    Assign
    | For
    | If
    | Return
    | ViewBlock
    | Apply
    | Loss
    | Require
    | Freeze
    | Init
    | Tie
    | Align
    | Property
    | WeightOf
    | Derived
    | DefaultLabel
)


# ---- declarations ---------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Type(Tree):
    """`int`, `feature`, `[int]` where `many`, `block?` where `optional`: none will do."""

    name: str
    many: bool
    optional: bool


@dataclass(slots=True, eq=False)
class Parameter(Tree):
    name: str
    type: Type
    default: Expr | None
    doc: str = ""


@dataclass(slots=True, eq=False)
class Declaration(Tree):
    name: str
    # Where the name itself stands.
    name_start: int
    source: Source = field(init=False)
    doc: str = field(init=False, default="")

    @property
    def span(self) -> Span:
        """The declaration's name."""
        return Span(self.source, self.name_start, self.name_start + len(self.name))


@dataclass(slots=True, eq=False)
class Component(Declaration):
    """A block, backbone, neck, head, cell, model or op."""

    kind: str
    parameters: list[Parameter]
    inputs: list[Parameter]
    # For an op every result has a name; for the others there is one, without a name, or none said.
    results: list[Parameter]
    body: list[Statement]


@dataclass(slots=True, eq=False)
class RecordOf(Declaration):
    """A bundle of typed parameters, and values derived from them."""

    parameters: list[Parameter]
    body: list[Assign]


@dataclass(slots=True, eq=False)
class Let(Declaration):
    """A constant, or a static function where it has parameters."""

    parameters: list[Parameter] | None
    value: Expr


@dataclass(slots=True, eq=False)
class Field(Tree):
    """`path = value`, or `reported { ... }`."""

    path: list[str]
    value: Expr


@dataclass(slots=True, eq=False)
class Detector(Declaration):
    """`detector name : Model { fields }`, or `detector name = base with { fields }`."""

    model: Expr | None
    base: Expr | None
    fields: list[Field]


@dataclass(slots=True, eq=False)
class Import(Tree):
    names: list[Name]
    path: Literal


@dataclass(slots=True, eq=False)
class Default(Tree):
    name: str


@dataclass(slots=True, eq=False)
class File:
    """One parsed file."""

    source: Source
    imports: list[Import]
    declarations: list[Declaration]
    default: Default | None
    # The `##` lines that the file begins with.
    doc: str
    # All comments with their places, for the formatter: (start, end).
    comments: list[tuple[int, int]]
