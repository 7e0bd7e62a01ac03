"""
The CrowdTwist API as an ASGI app, over seeded members: for demonstrations, tests and benchmarks.

`Emulator` keeps the rules of the vendor's reference for the three endpoints; `Fault` says what
goes wrong. `crowdtwist_async.emulator.server` puts it on a socket.
"""

from crowdtwist_async.emulator.app import Emulator
from crowdtwist_async.emulator.asked import AskedRequest
from crowdtwist_async.emulator.faults import Fault
from crowdtwist_async.emulator.stats import EmulatorStats

__all__ = ["AskedRequest", "Emulator", "EmulatorStats", "Fault"]
