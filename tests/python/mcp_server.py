"""An MCP server as tool authors write one: the official SDK, streamable HTTP, a bearer token.

Prints the port that it listens on, and serves until it is killed. Arguments: the token, and a port if not any.
"""

import asyncio
import socket
import sys

import uvicorn
from mcp.server.mcpserver import Context, Image, MCPServer
from starlette.responses import JSONResponse

TOKEN = sys.argv[1]
PORT = int(sys.argv[2]) if len(sys.argv) > 2 else 0

server = MCPServer("tests")
cancelled: list[str] = []
ended: list[bytes] = []


@server.tool()
def add(a: float, b: float) -> str:
    """Adds two numbers."""
    return str(a + b)


@server.tool()
def divide(a: float, b: float) -> float:
    """Divides, or raises."""
    return a / b


@server.tool()
async def wait(seconds: float, name: str) -> str:
    """Waits, and keeps in mind whether it was told to stop."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        cancelled.append(name)
        raise
    return "waited"


@server.tool()
def stopped() -> str:
    """Those that were told to stop."""
    return ",".join(cancelled)


@server.tool()
def huge(size: int) -> str:
    """Answers at length."""
    return "x" * size


@server.tool()
def picture() -> Image:
    """Answers with what is no text."""
    return Image(data=b"\x89PNG", format="png")


@server.tool()
async def grow(ctx: Context) -> str:
    """Adds a tool, and says so to whoever listens."""
    server.add_tool(lambda: "new", name="grown")
    await ctx.request_context.session.send_tool_list_changed()
    return "grown"


@server.tool()
def ended_sessions() -> str:
    """How many sessions their clients have ended."""
    return str(len(ended))


class Guarded:
    """Lets nobody in without the token."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and dict(scope["headers"]).get(b"authorization") != f"Bearer {TOKEN}".encode():
            return await JSONResponse({"error": "invalid_token"}, 401)(scope, receive, send)
        if scope["type"] == "http" and scope["method"] == "DELETE":
            ended.append(dict(scope["headers"])[b"mcp-session-id"])
        await self.app(scope, receive, send)


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", PORT))
    print(listener.getsockname()[1], flush=True)
    app = Guarded(server.streamable_http_app())
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
