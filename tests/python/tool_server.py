"""A ToolServer as tool authors write one: FastAPI, bearer token, a tool that keeps to its timeout.

Prints the port that it listens on, and serves until it is killed.
"""

import asyncio
import socket
import sys

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

TOKEN = sys.argv[1]


class Tool(BaseModel):
    name: str
    arguments: dict
    uniq_id: str


class ExecuteRequest(BaseModel):
    trajectory_id: str
    tool: Tool
    timeout_s: float
    slot_id: str | None
    container_addr: str | None


def schema(name: str, description: str, **properties) -> dict:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS = [
    schema("add", "Adds two numbers.", a={"type": "number"}, b={"type": "number"}),
    schema("divide", "Divides.", a={"type": "number"}, b={"type": "number"}),
    schema("wait", "Waits for so many seconds.", seconds={"type": "number"}),
]


async def run(name: str, arguments: dict) -> str:
    match name:
        case "add":
            return str(arguments["a"] + arguments["b"])
        case "divide":
            return str(arguments["a"] / arguments["b"])
        case "wait":
            await asyncio.sleep(arguments["seconds"])
            return "waited"
    raise HTTPException(404, f"no tool {name}")


def check(credentials: HTTPAuthorizationCredentials = Depends(HTTPBearer())) -> None:
    if credentials.credentials != TOKEN:
        raise HTTPException(403, "Invalid token")


app = FastAPI(dependencies=[Depends(check)])


@app.get("/tools")
async def tools() -> dict:
    return {"tools": TOOLS}


@app.post("/execute")
async def execute(request: ExecuteRequest) -> dict:
    result = {"success": False, "output": "", "error": "", "metadata": {}, "uniq_id": request.tool.uniq_id}
    try:
        output = await asyncio.wait_for(run(request.tool.name, request.tool.arguments), request.timeout_s)
        return result | {"success": True, "output": output}
    except asyncio.TimeoutError:
        return result | {"error": "timed out", "metadata": {"timeout": True}}
    except ZeroDivisionError as error:
        return result | {"error": str(error)}


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
