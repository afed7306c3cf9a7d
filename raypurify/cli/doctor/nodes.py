"""The nodes of a cluster, and what each says: asked all at once, none waited for longer than patience has it."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from raypurify.cli.doctor import witness
from raypurify.errors import one_line


@dataclass
class Nodes:
    """The nodes that answer, by name: their witnesses, what Ray counts as their GPUs, and their facts. ``wrong`` says
    of the others why they do not."""

    patience: float
    witnesses: dict[str, Any] = field(default_factory=dict)
    gpus: dict[str, float] = field(default_factory=dict)
    facts: dict[str, dict] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)

    def ask(self, call: Callable[[Any, str], Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """What every node answers to ``call(witness, name)``, which returns a future, and what is wrong where there is
        no answer. Who gives none within ``patience`` is not asked again."""
        import ray

        asked = {call(one, name): name for name, one in self.witnesses.items()}
        if not asked:
            return {}, {}
        done, silent = ray.wait(list(asked), num_returns=len(asked), timeout=self.patience)
        answers: dict[str, Any] = {}
        wrong = {}
        for future in silent:
            wrong[asked[future]] = f"gives no answer within {self.patience:.0f} s"
            del self.witnesses[asked[future]]
        for future in done:
            try:
                answers[asked[future]] = ray.get(future)
            except Exception as error:  # of that node, whatever it is
                wrong[asked[future]] = one_line(error)
        return answers, wrong


def meet(patience: float) -> Nodes:
    """The nodes of the cluster that this process has joined, with a witness on each that has told its facts."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = Nodes(patience)
    ray.cloudpickle.register_pickle_by_value(witness)
    try:
        # A process without GPUs of its own must see those of its node all the same.
        seeing = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}
        actor = ray.remote(num_cpus=0, runtime_env=seeing)(witness.Witness)
        for name, node in zip(names((n["NodeManagerAddress"], n["NodeID"]) for n in alive), alive):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            nodes.witnesses[name] = actor.options(scheduling_strategy=there).remote()
            nodes.gpus[name] = node["Resources"].get("GPU", 0)
    finally:
        ray.cloudpickle.unregister_pickle_by_value(witness)
    nodes.facts, nodes.wrong = nodes.ask(lambda one, name: one.facts.remote(nodes.gpus[name] > 0))
    for name in nodes.wrong:
        nodes.witnesses.pop(name, None)
    return nodes


def names(found: Iterable[tuple[str, str]]) -> list[str]:
    """How people know nodes, of (address, ID): by address, with the beginning of the ID where several share one.

    >>> names([("10.0.0.1", "abcdefghij"), ("10.0.0.2", "cdefghijkl"), ("10.0.0.2", "defghijklm")])
    ['10.0.0.1', '10.0.0.2 (cdefghij)', '10.0.0.2 (defghijk)']
    """
    found = list(found)
    count = Counter(address for address, _ in found)
    return [address if count[address] == 1 else f"{address} ({node[:8]})" for address, node in found]
