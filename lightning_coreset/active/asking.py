"""From a choice to labels: the request is written down, the oracle answers, the answer is written down."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning_coreset.active.oracles import Answer, Oracle, Request, total_units
from lightning_coreset.active.plain import from_plain, to_plain
from lightning_coreset.active.pool import Id, LabelledPool
from lightning_coreset.distributed import gather_json, together
from lightning_coreset.ops.reducer import Reducer


def ask(
    pool: LabelledPool,
    ids: Sequence[Id],
    oracle: Callable[[int], Oracle | None],
    *,
    round: int,
    dataset: Any,
    reducer: Reducer,
    budget: float | None = None,
    unit: str = "images",
    about: Mapping[str, Any] | None = None,
    reserve: Sequence[Id] = (),
    names: Sequence[str] | None = None,
    source: Any = None,
) -> None:
    """Ask for labels and take in what comes at once; all ranks call it with the same ids.

    Args:
        pool: Gets the request and the labels.
        ids: Unlabelled items, the most wanted first.
        oracle: Who answers a round.
        round: The round that asks.
        dataset: The train items of the source.
        reducer: The ranks; the first one asks.
        budget: Units that may be spent; None where all items are wanted.
        unit: What the budget counts.
        about: What chose the items, in JSON types.
        reserve: Further items, in case that the others cost less than was thought.
        names: Names of the classes, where they are known.
        source: The datamodule behind the dataset.
    """
    told = {**(about or {}), "unit": unit} | ({} if budget is None else {"budget": budget})
    told |= {"reserve": list(reserve)} if reserve else {}
    pool.request([*ids, *reserve], round=round, about=told)
    answer_pending(pool, oracle, dataset=dataset, reducer=reducer, names=names, source=source)


def answer_pending(
    pool: LabelledPool,
    oracle: Callable[[int], Oracle | None],
    *,
    dataset: Any,
    reducer: Reducer,
    names: Sequence[str] | None = None,
    source: Any = None,
) -> None:
    """Let the oracle answer what is still pending, such as requests of a run that was killed; all ranks call it."""
    for event in pending_requests(pool):
        asked = oracle(event["round"])
        if asked is None:
            continue
        waiting = [name for name in event["ids"] if pool.state_of(name) == "pending"]
        budget = event["about"].get("budget")
        request = Request(
            ids=waiting,
            positions=pool.positions(waiting).tolist(),
            round=event["round"],
            dataset=dataset,
            budget=None if budget is None else budget - spent_on(pool, event["round"]),
            unit=event["about"].get("unit", "images"),
            names=names,
            source=source,
            reserve=frozenset(event["about"].get("reserve", ())),
        )
        take_in(pool, request, _shared(asked, request, reducer))


def take_in(pool: LabelledPool, request: Request, answer: Answer) -> None:
    """Write an answer down; where the oracle gives the rest up, or the units are spent, nobody waits for the rest."""
    if answer.ids:
        targets = {name: answer.targets[name] for name in answer.ids if name in answer.targets}
        with_target = [name for name in answer.ids if name in targets]
        without = [name for name in answer.ids if name not in targets]
        for names, values in ((with_target, targets), (without, None)):
            if names:
                units = {name: answer.units.get(name, 1) for name in names}
                pool.label(names, targets=values, round=request.round, units=units)
    if answer.skipped:
        pool.skip(answer.skipped, round=request.round)
    rest = [name for name in request.ids if pool.state_of(name) == "pending"]
    if rest and answer.closed:
        pool.unlabel(rest, round=request.round)


def pending_requests(pool: LabelledPool) -> list[dict[str, Any]]:
    """Requests with items that nobody has answered, oldest first; each item in its latest request only."""
    waiting = set(pool.pending)
    found = []
    for event in reversed(pool.history):
        if event["event"] == "request" and waiting.intersection(event["ids"]):
            found.append({"about": {}, **event, "ids": [name for name in event["ids"] if name in waiting]})
            waiting.difference_update(event["ids"])
    return found[::-1]


def spent_on(pool: LabelledPool, round: int) -> float:
    """Units of a round so far."""
    events = [event for event in pool.history if event["event"] == "label" and event["round"] == round]
    return sum(sum(map(total_units, event.get("units", [1] * len(event["ids"])))) for event in events)


def _shared(oracle: Oracle, request: Request, reducer: Reducer) -> Answer:
    """The first rank's answer on every rank."""
    answer = Answer()
    with together(reducer, "asking the oracle"):
        if reducer.rank == 0:
            answer = oracle.answer(request)
    plain = {
        "ids": answer.ids,
        "targets": [[name, to_plain(target)] for name, target in answer.targets.items()],
        "units": [[name, to_plain(units)] for name, units in answer.units.items()],
        "skipped": answer.skipped,
        "closed": answer.closed,
    }
    if reducer.world_size == 1:
        return answer
    told = gather_json(reducer, plain if reducer.rank == 0 else None)[0]
    return Answer(
        ids=told["ids"],
        targets={name: from_plain(target) for name, target in told["targets"]},
        units=dict(told["units"]),
        skipped=told["skipped"],
        closed=told["closed"],
    )
