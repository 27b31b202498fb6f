"""The maintenance procedures of a pool, written against `Session` alone: they cannot tell a fake pool from a real one.

observe.py          a picture of the pool, as far as procedures need it
hands.py            what a person does to the machines
hardware.py         the processor that a guest runs on, and devices that tie it to a host
sequence.py         the steps of a rolling upgrade, played through before anything happens
planner/            which host when, which guest where: the fewest migrations, or the proof that there is no way
placement.py        what a guest needs of a host, and a board to move guests on
plan.py             a plan as data
backup.py           the pool database, fetched and verified
acts/               what each step does, and how to see that it is done
waiting.py          waiting for a host that was away, stage by stage
drift.py            what is not as a plan expects it
policy.py           what a run does by itself where things are not as planned
gates.py            what is asked before each host, and may stop the run there
fallen.py           guests that went down while a host was away
estimate.py         how long steps take
guest_policies.py   what becomes of single guests, as the administrator says
account.py          what became of each host and guest
journal.py          what a run has to remember when it is killed
running.py          how a plan is carried out
rolling_upgrade.py  the plan of a rolling upgrade, and its run
upgrade_path.py     the hops of a longer way, and what each needs
"""
