"""Users of a directory, for tests of what each may do."""

from __future__ import annotations

from typing import Any

import pytest

from xenctl.errors import Failure

PASSWORD = "pw"


def role(c: Any, name: str) -> str:
    (ref,) = c("role.get_by_name_label", name)
    return str(ref)


def user(c: Any, name: str, *roles: str) -> str:
    """A user of the directory who is a subject with these roles; the subject."""
    sid = c.pool.directory.add(name, password="pw")
    ref = c("subject.create", {"subject_identifier": sid, "other_config": {"subject-name": name}})
    for held in roles:
        c("subject.add_to_roles", ref, role(c, held))
    return str(ref)


class As:
    """Calls of another user than root."""

    def __init__(self, c: Any, name: str, password: str = PASSWORD) -> None:
        self.pool = c.pool
        self.session = c.pool.dispatch("session.login_with_password", [name, password])

    def __call__(self, method: str, *args: Any) -> Any:
        return self.pool.dispatch(method, [self.session, *args])

    def refused(self, method: str, *args: Any) -> list[str]:
        with pytest.raises(Failure) as caught:
            self(method, *args)
        return caught.value.details
