"""The maintenance procedures of a pool, written against `Session` alone: they cannot tell a fake pool from a real one.

observe.py          a picture of the pool, as far as procedures need it
hands.py            what a person does to the machines
placement.py        where VMs can go, and in which order hosts are emptied
plan.py             a plan as data
backup.py           the pool database, fetched and verified
rolling_upgrade.py  the plan of a rolling upgrade, and its run
"""
