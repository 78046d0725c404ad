"""Drives one executor as a trainer would, with the client that grpcio-tools generates from the protocol.

Usage: trajectory_client.py ADDRESS, with the generated modules on PYTHONPATH. Exits with 0 if all is as it should be.
"""

import queue
import sys

import grpc
from toolexecutor.v1 import tool_executor_pb2 as pb
from toolexecutor.v1 import tool_executor_pb2_grpc as rpc

DEADLINE_SECONDS = 60


class Stream:
    """One Trajectory RPC: what is put goes out, iterating gives what comes in."""

    def __init__(self, stub, **opening):
        self._requests = queue.SimpleQueue()
        self._requests.put(pb.TrajectoryRequest(open=pb.Open(**opening)))
        self.responses = stub.Trajectory(iter(self._requests.get, None), timeout=DEADLINE_SECONDS)
        self.opened = next(self.responses).opened

    def send(self, **message):
        self._requests.put(pb.TrajectoryRequest(**message))

    def results(self, count):
        found = []
        while len(found) < count:
            response = next(self.responses)
            if response.WhichOneof("message") == "result":
                found.append(response.result)
        return found

    def half_close(self):
        self._requests.put(None)

    def cut(self):
        self.responses.cancel()
        self._requests.put(None)


def bash(call_id, command):
    call = pb.Call(call_id=call_id, tool=pb.ToolCall(name="bash"))
    call.tool.arguments_struct.update({"command": command})
    return call


def batches(stub):
    stream = Stream(stub, trajectory_id="python-batches")
    assert not stream.opened.resumed
    stream.send(batch=pb.Batch(calls=[bash(f"a{n}", f"echo {n} >> log; cat log") for n in range(3)]))
    first = stream.results(3)
    assert [result.output for result in first] == ["0", "0\n1", "0\n1\n2"], first
    failing = pb.Call(call_id="fails", command=pb.Command(shell="echo out; echo err >&2; exit 3"))
    stream.send(batch=pb.Batch(calls=[failing, bash("after", "wc -l < log")]))
    failed, after = stream.results(2)
    assert (failed.stdout.data, failed.stderr.data, failed.exit_code) == (b"out\n", b"err\n", 3), failed
    assert failed.attribution == pb.ATTRIBUTION_CLIENT, failed
    assert after.output == "3", after
    stream.half_close()
    assert list(stream.responses) == [], "after half-close the stream ends once everything is answered"


def resumes(stub):
    calls = [bash(str(n), f"echo {n} >> log; sleep 0.02") for n in range(30)]
    stream = Stream(stub, trajectory_id="python-resumes")
    stream.send(batch=pb.Batch(calls=calls))
    have = {result.sequence: result for result in stream.results(7)}
    stream.cut()
    # The old stream may still be attached when the new one arrives: a trainer that knows it is gone takes over.
    stream = Stream(stub, trajectory_id="python-resumes", last_sequence=max(have), take_over=True)
    assert stream.opened.resumed
    stream.send(batch=pb.Batch(calls=[call for call in calls if call.call_id not in {r.call_id for r in have.values()}]))
    while len(have) < len(calls):
        (result,) = stream.results(1)
        if not result.replayed:
            assert result.sequence not in have, f"{result.sequence} came twice"
        have.setdefault(result.sequence, result)
    assert sorted(have) == list(range(1, len(calls) + 1)), sorted(have)
    stream.send(batch=pb.Batch(calls=[bash("count", "tr '\\n' ' ' < log")]))
    log = next(r for r in iter(lambda: stream.results(1)[0], None) if r.call_id == "count").output
    assert log == " ".join(str(n) for n in range(30)), log
    stream.send(release=pb.ReleaseTrajectory())
    last = list(stream.responses)[-1]
    assert last.released.cause == pb.RELEASE_CAUSE_CLIENT, last


def main():
    with grpc.insecure_channel(sys.argv[1]) as channel:
        stub = rpc.ToolExecutorStub(channel)
        batches(stub)
        resumes(stub)
    print("ok")


if __name__ == "__main__":
    main()
