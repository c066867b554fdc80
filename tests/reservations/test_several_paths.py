"""What a host has whose device has several paths."""

from __future__ import annotations

from holdover.reservations.driver import run_sync
from holdover.reservations.own_key import find_key
from holdover.reservations.own_registration import find_own_registration
from holdover.reservations.tracked import Tracked
from holdover.scsi.reservation.reservation_out import ParameterList
from tests.paths.multipath_device import OTHER, PATHS, REGISTER, Device, K, L

SPARE = 0x77


def test_a_change_that_failed_midway_is_completed_with_a_key_that_a_path_has() -> None:
    """With a spare key that no path has had, the host would look as if it had lost its registration."""
    device = Device()
    device.out(REGISTER, 0, K)
    device.directly(PATHS[1], REGISTER, K, L)
    device.log.clear()
    own = run_sync(find_key(Tracked(K), (K, L), (SPARE,)), device.run)
    assert own is not None
    assert (own.key, device.keys()) == (L, [L, L, L])
    changes = [ParameterList.decode(each.command.data_out) for each in device.log if each.command.data_out]
    assert {each.service_action_key for each in changes if each.key != each.service_action_key} <= {K, L}


def test_a_registration_by_a_path_that_is_away_leaves_a_doubt() -> None:
    device = Device()
    device.down = {1, 2}
    device.out(REGISTER, 0, K)
    device.down = {0}
    asked = find_own_registration((K,), paths=len(PATHS))
    found = run_sync(asked, device.run)
    assert (found.tracked, found.certain) == (Tracked(), False)
    assert "perhaps by a path of this host that is away" in found.reason
    # it is the other host's, as the handover knows
    assert run_sync(find_own_registration((K,), paths=len(PATHS), beside=lambda _: 1), device.run).certain
    device.directly(PATHS[0], REGISTER, K, 0)
    assert run_sync(find_own_registration((K,), paths=len(PATHS)), device.run).certain
    device.down = set()
    device.directly(OTHER, REGISTER, 0, K)
    assert run_sync(find_own_registration((K,), paths=len(PATHS)), device.run).certain
