"""The policies of a plain proxy: exchanged while it serves, a connection keeps the one that it began with.

Each policy has a number, its epoch. The numbers of its rule sets, as connections have them, begin where no other's lie.
"""

from collections.abc import Collection
from dataclasses import replace

from racecar.policy.tables import CompiledWorkload
from racecar.proxy.flows import FlowSource, FlowWriter
from racecar.proxy.layers import Layer, RelayLayer, layers_of
from racecar.proxy.records import ConnectionEntry, HttpEntry
from racecar.proxy.server import LayerPolicy
from racecar.redirect.abi import ConnectionRecord

RULESETS = 1 << 32  # between the numbers of one epoch and the next


def ruleset_of(epoch: int, number: int) -> int:
    """A rule set's number among those of all epochs; 0, none, is the same in all."""
    return number and epoch * RULESETS + number


class EpochFlows(FlowWriter):
    """Make lines that name the rules by which the connection was judged."""

    def __init__(self, source: FlowSource) -> None:
        super().__init__(replace(source, rules=(), policies=()), _nobody)  # for what has no record
        self._writers: dict[int, FlowWriter] = {}

    def add(self, epoch: int, source: FlowSource) -> None:
        self._writers[epoch] = FlowWriter(source, _nobody)

    def drop(self, epoch: int) -> None:
        del self._writers[epoch]

    def request(self, entry: HttpEntry) -> str:
        writer = self._writer(entry.record)
        return super().request(entry) if writer is None else writer.request(entry)

    def connection(self, entry: ConnectionEntry) -> str:
        writer = self._writer(entry.record)
        return super().connection(entry) if writer is None else writer.connection(entry)

    def _writer(self, record: ConnectionRecord | None) -> FlowWriter | None:
        return None if record is None else self._writers.get(record.epoch)


class Epochs:
    """The policy in force, and those before it as long as a connection lives that began with them."""

    def __init__(self, compiled: CompiledWorkload, source: FlowSource) -> None:
        self.current = 0
        self.layers: dict[int, Layer] = {}  # by `ruleset_of`
        self.flows = EpochFlows(source)
        self._source = source
        self._relay = RelayLayer()
        self._known: dict[int, tuple[int, ...]] = {}  # the rule sets of each epoch
        self._unused: set[int] = set()
        self._add(compiled)

    def layer(self, _workload: int, ruleset: int) -> LayerPolicy | None:
        """What judges the connections of a rule set; L4 alone has allowed those of none."""
        return self.layers.get(ruleset) if ruleset else self._relay

    def exchange(self, compiled: CompiledWorkload, living: Collection[int]) -> int:
        """Put another policy in force; its epoch. `living`: epochs of connections that there are now."""
        for epoch in self._unused - set(living):  # since the last exchange: their lines are written by now
            for ruleset in self._known.pop(epoch):
                del self.layers[ruleset]
            self.flows.drop(epoch)
        self._unused = set(self._known) - set(living)
        self.current += 1
        self._add(compiled)
        return self.current

    def _add(self, compiled: CompiledWorkload) -> None:
        layers = {ruleset_of(self.current, number): layer for number, layer in layers_of(compiled).items()}
        self.layers |= layers
        self._known[self.current] = tuple(layers)
        self.flows.add(self.current, replace(self._source, rules=compiled.rules, policies=compiled.policies))


def _nobody(_pid: int, _start_ns: int) -> None:
    """No kernel says which process it is."""
