import json
import sys

from hct_lightning.machine.facts import machine_facts
from hct_lightning.machine.runtime import cpu_count


def test_facts_are_plain_and_those_of_this_machine():
    facts = machine_facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cpus"] == cpu_count()
    assert facts["command"] == sys.argv
    assert facts["cpu"]
