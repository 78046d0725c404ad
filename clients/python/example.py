import grpc
from toolexecutor.v1 import tool_executor_pb2 as pb, tool_executor_pb2_grpc as rpc

calls = [pb.Call(call_id=str(n), tool=pb.ToolCall(name="bash", arguments_json='{"command": "echo hello %d"}' % n)) for n in range(3)]
requests = [pb.TrajectoryRequest(open=pb.Open(trajectory_id="example")), pb.TrajectoryRequest(batch=pb.Batch(calls=calls))]
with grpc.insecure_channel("127.0.0.1:9001") as channel:
    for response in rpc.ToolExecutorStub(channel).Trajectory(iter(requests)):
        if response.WhichOneof("message") == "result":
            print(response.result.call_id, response.result.output, response.result.success)
