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
