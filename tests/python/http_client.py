"""A client of the HTTP API as trainers have written it: http_client.py URL TOKEN."""

import concurrent.futures
import json
import sys
import urllib.error
import urllib.request

url, token = sys.argv[1:]


def by_urllib(path, body=None, authorized=True):
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if authorized:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def by_requests(session):
    def ask(path, body=None, authorized=True):
        headers = {"Authorization": f"Bearer {token}"} if authorized else {}
        if body is None:
            response = session.get(url + path, headers=headers, timeout=30)
        else:
            response = session.post(url + path, json=body, headers=headers, timeout=30)
        return response.status_code, response.json()

    return ask


def check(name, ask):
    def execute(uniq_id, command, **more):
        tool = {"name": "terminal", "arguments": {"command": command}, "uniq_id": uniq_id}
        return ask("/execute", {"trajectory_id": name, "tool": tool, **more})

    assert ask("/") == (200, {"message": "Atropos-Agent Tool Executor"})
    assert ask("/health") == (200, {"status": "ok"})
    status, result = execute("1", "echo 'é漢😀'; echo err >&2; exit 3")
    assert status == 200, result
    assert list(result) == ["success", "output", "error", "metadata", "uniq_id"], result
    assert result["success"] is False and result["error"] == "Exit code: 3", result
    assert result["output"] == "é漢😀\n\n[stderr]\nerr", result
    assert result["metadata"]["exit_code"] == 3 and result["uniq_id"] == "1", result
    assert execute("1", "echo 'é漢😀'; echo err >&2; exit 3") == (200, result)
    status, result = execute("2", "echo partial; sleep 9", timeout_s=1)
    assert result["error"] == "Command timed out after 1.0s", result
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: execute(f"n{n}", f"echo {n}"), range(40)))
    assert [result["output"] for _, result in answers] == [str(n) for n in range(40)], answers

    assert ask("/execute", {}, authorized=False) == (401, {"detail": "Missing Authorization header"})
    status, refused = ask("/execute", {"trajectory_id": name})
    assert status == 422, refused
    assert refused["detail"][0]["loc"] == ["body", "tool"] and refused["detail"][0]["msg"] == "Field required", refused
    assert ask("/nope") == (404, {"detail": "Not Found"})

    status, before = ask("/status", authorized=False)
    assert before["pool"]["acquired_slots"] >= 1 and before["total_requests"] >= 42, before
    assert ask("/release", {"trajectory_id": name, "reset_workspace": True}) == (200, {"status": "ok"})
    print(f"{name}: ok")


check("urllib", by_urllib)
try:
    import requests
except ImportError:
    sys.exit()
with requests.Session() as session:
    check("requests", by_requests(session))
