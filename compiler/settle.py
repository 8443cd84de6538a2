"""What is settled when a detector's graph is complete: frozen, tied and initialised weights, and what nothing uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from detc.compiler.graph import Graph, Node, Weight
from detc.compiler.pieces import InitRule
from detc.dsl.catalogue import names, types
from detc.dsl.diagnostics import Diagnostic, DiagnosticError, Label
from detc.dsl.source import Span


def freeze(frozen: list[tuple[str, Span]], nodes: dict[str, Node], weights: dict[str, Weight]) -> None:
    """Frozen weights take no gradient, and frozen normalisations keep their statistics.

    Raises:
        DiagnosticError: where there is nothing under a label.
    """
    fixed: set[str] = set()
    for prefix, span in frozen:
        keys = [k for k in weights if k == prefix or k.startswith(prefix + ".")]
        if not keys:
            raise DiagnosticError(names.UNKNOWN_NAME.at(span, f'no weights stand under the label "{prefix}"'))
        fixed.update(keys)
    for key in fixed:
        weights[key] = replace(weights[key], trainable=False)
    for node in list(nodes.values()):
        if "fixed" in node.attrs and not fixed.isdisjoint(node.weights.values()):
            nodes[node.name] = replace(node, attrs={**node.attrs, "fixed": True, "trainable": False})


def tie(ties: list[tuple[str, str, Span]], weights: dict[str, Weight]) -> None:
    """Weights with two names are one tensor.

    Raises:
        DiagnosticError: where there is nothing under a label, or the two do not fit.
    """
    for prefix, to, span in ties:
        keys = [k for k in weights if k.startswith(prefix + ".")]
        if not keys:
            raise DiagnosticError(names.UNKNOWN_NAME.at(span, f'no weights stand under the label "{prefix}"'))
        for key in keys:
            other = weights.get(to + key.removeprefix(prefix))
            if other is None or other.shape != weights[key].shape:
                what = "does not exist" if other is None else f"has shape {list(other.shape)}"
                raise DiagnosticError(
                    types.LABEL_CONFLICT.at(
                        span,
                        f"{key} {list(weights[key].shape)} cannot be {to}{key.removeprefix(prefix)}, which {what}",
                    )
                )
            if key != other.key:
                weights[key] = replace(weights[key], tied=other.tied or other.key)


def initialise(rules: dict[InitRule, None], nodes: dict[str, Node], weights: dict[str, Weight]) -> None:
    """The nearest rule decides: of the innermost component that has one, and there a label's before an op's."""
    ordered = sorted(rules, key=lambda r: (r.depth, len(r.path), not r.by_op))
    if not ordered:
        return
    owner = {key: node for node in nodes.values() for key in node.weights.values()}
    for key, weight in weights.items():
        label, _, leaf = key.rpartition(".")
        for rule in reversed(ordered):
            if rule.weight != leaf or not (label == rule.path or label.startswith(rule.path + ".") or not rule.path):
                continue
            if rule.by_op:
                matches = owner[key].op == rule.target
            else:
                target = f"{rule.path}.{rule.target}" if rule.path else rule.target
                matches = label == target or label.startswith(target + ".")
            if matches:
                weights[key] = replace(weight, init=rule.rule)
                break


def unused(graph: Graph) -> Iterator[Diagnostic]:
    """What is computed and not used, and what no loss trains."""
    used = graph.reached(*graph.views)
    dead = [n for n in graph.nodes if n.name not in used]
    names_of_dead = {n.name for n in dead}
    returned = {value.node for call in graph.calls for _, value in call.outputs}

    def producers(node: Node) -> set[str]:
        return {value.node for value in node.operands}

    for node in dead:
        users = {u.name for u in graph.users(node.name)}
        # A level that a neck has made for others is no mistake, where no weights are behind it alone.
        if not users and (node.name not in returned or node.weights or names_of_dead & producers(node)):
            keys = sorted(set(node.weights.values()))
            yield types.UNUSED_OUTPUT.at(
                node.origins[0],
                f"nothing uses {node.name}"
                + (f", whose weights ({', '.join(keys)}) would never train" if keys else ""),
                label=f"this {node.op} is made for nothing",
                labels=tuple(Label(s, "in this use") for s in node.origins[1:3]),
            )
    if "train" in graph.views:
        trained = {k for n in graph.reached("train") if n in graph for k in graph[n].weights.values()}
        for node in graph.nodes:
            lost = [
                k
                for k in node.weights.values()
                if k not in trained and graph.weights[k].trainable and not graph.weights[k].buffer
            ]
            if lost and node.name not in names_of_dead:
                yield types.UNTRAINED.at(
                    node.origins[0],
                    f"no loss depends on {', '.join(lost)}",
                    detail="add a loss, or freeze the label",
                )
