"""Mutated payloads and flipped signatures: refused with a reason, never anything else.

TASKQ_FUZZ payloads (default 20,000; a tenth of it flips, a half goes through the resolver).
"""

from __future__ import annotations

import os
import pickle
import random
import zlib

from taskq.errors import PayloadError, UnknownTask
from taskq.serializers.codec import Codec
from taskq.worker.claim import Claim
from taskq.worker.resolve import Resolver
from tests import poison, sweeps

APP = sweeps.APP
COUNT = int(os.environ.get("TASKQ_FUZZ", "20000"))
ARGUMENTS = ((1, "two", [3.0, None], {"four": "\u2028"}), {"name": "x" * 40})


def seeds(codec: Codec, name: str) -> list[bytes]:
    """Valid payloads of every form."""
    large = ("y" * 3_000,)
    calls = [ARGUMENTS, ((), {}), ((1,), {}), (large, {})]
    plain = [codec.dump_call(name, *call, job_id="j", queue="default") for call in calls]
    odd = ["app.task", None, [{"$": "set", "v": [1, 2]}, {"$": "datetime", "v": "2024"}], {}]
    tagged = codec.dump_call(name, ({1, 2}, b"x", 2**70), {}, job_id="j", queue="default")
    stock = pickle.dumps((name, None, (1,), {}))
    return [
        *plain,
        tagged,
        zlib.compress(plain[0]),
        stock,
        zlib.compress(stock),
        repr(odd).encode(),
    ]


def test_mutated_payloads(app):
    """Neither crash nor hang; what is still a call names a task of the app, or is refused."""
    chosen = random.Random(COUNT)
    name = f"{app.__name__}.plain"
    codec = app.queue.codec
    resolver = Resolver(app.queue, rq=False, report=lambda *_: None)
    read = refused = unknown = 0
    for n, data in enumerate(poison.mutations(seeds(codec, name), chosen, COUNT)):
        try:
            if n % 2:
                codec.load_call(data, job_id="j", queue="default")
            else:
                fields = [
                    b"data",
                    data,
                    chosen.choice(poison.FIELDS).encode(),
                    poison.garbage(chosen),
                ]
                claim = Claim(1, "default", "j", "tqaaaaaaaa1", fields, 0.0)
                resolver.prepare(claim)
                assert claim.name in app.queue.tasks or claim.name == "taskq.deliver", claim.name
            read += 1
        except PayloadError:
            refused += 1
        except UnknownTask:
            unknown += 1
    print(f"{COUNT} payloads: {refused} refused, {unknown} of unknown tasks, {read} still calls")
    assert refused > COUNT / 4


def test_flipped_signatures():
    """One bit anywhere, a cut, or a piece of another envelope: none is accepted."""
    chosen = random.Random(COUNT)
    codec = Codec(secret="one,two")
    sealed = [codec.dump_call("t", (n, "x" * n), {}, job_id="j", queue="q") for n in range(40)]
    accepted = 0
    for _ in range(max(COUNT // 10, 1)):
        data = bytearray(chosen.choice(sealed))
        at = chosen.randrange(len(data) * 8)
        data[at // 8] ^= 1 << at % 8
        try:
            codec.load_call(bytes(data), job_id="j", queue="q")
            accepted += 1
        except PayloadError:
            pass
    spliced = 0
    for data in poison.mutations(sealed, chosen, max(COUNT // 10, 1)):
        try:
            codec.load_call(data, job_id="j", queue="q")
            spliced += data not in sealed
        except PayloadError:
            pass
    print(
        f"{max(COUNT // 10, 1)} flips: {accepted} accepted; as many mutations: {spliced} accepted"
    )
    assert accepted == spliced == 0
