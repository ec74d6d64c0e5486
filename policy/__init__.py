"""Rules to verdicts: no I/O but reading policy files, no clock.

Words used here:
  finding    what is wrong or worth knowing in a policy file, with its line and column
  policy     one loaded rule section (`spec`): whom it selects and what they may do
  workload   the processes that a set of labels names; policies select it
  peer       the other end's address; every distinct CIDR of a workload's rules is a peer number in its tables
  rule set   the L7 rules of one peer and port, judged by the proxy (`engine`)
  verdict    what becomes of a connection (tables) or of a request (engine)

Modules: `files` and `document` read, `load`, `schema`, `rules` and `http_rules` understand, `conflicts` compares
rules, `compile` makes the tables that `tables` describes, `engine` and `paths` judge requests. Import the module that
is needed: the YAML and regular expression libraries are loaded by use.
"""

from racecar.policy.reasons import Reason

__all__ = ["Reason"]
