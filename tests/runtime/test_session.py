import os
import subprocess
import sys

import pytest
from free_ports import free_port

from raypurify.errors import ConfigError
from raypurify.runtime.session import start_ray


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_an_address_where_nobody_listens_is_an_error_at_once(address):
    where = address.format(free_port())
    with pytest.raises(ConfigError, match=f"no Ray cluster listens at {where}: .*refused; start it"):
        start_ray(where)


def test_an_address_without_a_port_that_is_one_is_named():
    with pytest.raises(ConfigError, match=r"address '127.0.0.1:ray'.*write HOST:PORT"):
        start_ray("127.0.0.1:ray")


def test_a_start_is_said_and_one_that_fails_ends_in_an_error(tmp_path):
    """In a process of its own, which has to end."""
    code = (
        "from raypurify.errors import RaypurifyError\n"
        "from raypurify.runtime.session import ray_session\n"
        "try:\n"
        "    with ray_session(): pass\n"
        "except RaypurifyError as error: print(error)\n"
    )
    (tmp_path / "file").touch()
    around = os.environ | {"RAY_TMPDIR": str(tmp_path / "file" / "below")}
    around.pop("RAY_ADDRESS", None)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=around, timeout=120)
    assert run.stderr.splitlines()[0] == "starting Ray on this machine"
    assert run.stdout.startswith("Ray did not start: ")
    assert "mend that, or join a cluster" in run.stdout
