"""A stand-in for the Hugging Face hub on loopback: what its client asks to download a repository and to push one."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from dataclasses import dataclass, field

TOKEN = "hf_of_somebody"
COMMIT = "ab" * 20


@dataclass
class StandIn:
    """What the stand-in holds.

    Attributes:
      address: its endpoint.
      repositories: the files of each, by name.
      facts: what the index knows of each besides.
      log: the paths that were asked for.
      refusals: a path -> the status to answer there, and the words.
    """

    address: str = ""
    repositories: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)
    log: list = field(default_factory=list)
    refusals: dict = field(default_factory=dict)

    def settings(self, cache, token=""):
        """Environment variables for a process that is to ask here: the client reads them once, at import."""
        settings = {"HF_ENDPOINT": self.address, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1"}
        return {**settings, "HF_HOME": str(cache), "HF_TOKEN": token}


@contextlib.contextmanager
def serving():
    """Serves a StandIn while the context is open."""
    hub = StandIn()
    stored = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.begin()
            if self.refused():
                return None
            if self.path == "/api/whoami-v2":
                known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                return self.say(
                    {"name": "somebody", "orgs": []} if known else {"error": "Invalid token"}, 200 if known else 401
                )
            if match := re.match(r"/api/models/([^/]+/[^/?]+)(/tree)?", self.path):
                name, tree = match.groups()
                if name not in hub.repositories:
                    return self.missing()
                files = hub.repositories[name]
                if tree:
                    return self.say(
                        [{"type": "file", "path": each, "size": len(files[each]), "oid": "0" * 40} for each in files]
                    )
                siblings = [{"rfilename": each} for each in files]
                return self.say({"id": name, "sha": COMMIT, "siblings": siblings, **hub.facts.get(name, {})})
            match = re.match(r"/([^/]+/[^/]+)/resolve/[^/]+/([^?]+)", self.path)
            content = hub.repositories.get(match[1], {}).get(match[2]) if match else None
            if content is None:
                return self.missing("EntryNotFound")
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            return self.answer(content, headers={"X-Repo-Commit": COMMIT, "ETag": etag})

        do_HEAD = do_GET

        def do_POST(self):
            self.begin()
            if self.refused():
                return None
            if self.path == "/api/repos/create":
                asked = json.loads(self.body)
                name = f"{asked['organization']}/{asked['name']}"
                there = name in hub.repositories
                hub.repositories.setdefault(name, {".gitattributes": b""})
                hub.facts.setdefault(
                    name, {"private": asked.get("visibility") == "private" or asked.get("private", False)}
                )
                return self.say({"url": f"{hub.address}/{name}", "name": name}, 409 if there else 200)
            if self.path == "/api/validate-yaml":
                return self.say({"errors": [], "warnings": []})
            if "/preupload/" in self.path:
                files = json.loads(self.body)["files"]
                mode = {True: "lfs", False: "regular"}
                modes = [(each["path"], mode[each["path"].endswith(".safetensors")]) for each in files]
                return self.say({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes]})
            if self.path.endswith("/info/lfs/objects/batch"):
                objects = json.loads(self.body)["objects"]
                given = [
                    {**each, "actions": {"upload": {"href": f"{hub.address}/store/{each['oid']}"}}} for each in objects
                ]
                return self.say({"transfer": "basic", "objects": given}, kind="application/vnd.git-lfs+json")
            if match := re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path):
                for line in map(json.loads, self.body.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        hub.repositories[match[1]][value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        hub.repositories[match[1]][value["path"]] = stored[value["oid"]]
                return self.say({"commitUrl": f"{hub.address}/{match[1]}/commit/{COMMIT}", "commitOid": COMMIT})
            return self.missing()

        def do_PUT(self):
            self.begin()
            if self.refused():
                return None
            digest = self.path.removeprefix("/store/")
            stored[digest] = self.body
            return self.answer(b"", 200 if hashlib.sha256(self.body).hexdigest() == digest else 400)

        def begin(self):
            hub.log.append(self.path)
            # Read whatever is answered: what is left of a body would be taken for the next request.
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def refused(self):
            for pattern, (status, words) in hub.refusals.items():
                if re.search(pattern, self.path):
                    self.say({"error": words}, status, headers={"X-Error-Message": words})
                    return True
            return False

        def missing(self, code="RepoNotFound"):
            self.say({"error": "not found"}, 404, headers={"X-Error-Code": code})

        def say(self, values, status=200, *, kind="application/json", headers=()):
            self.answer(json.dumps(values).encode(), status, headers={"Content-Type": kind, **dict(headers)})

        def answer(self, content, status=200, headers=()):
            self.send_response(status)
            for name, value in {**dict(headers), "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        hub.address = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            running.shutdown()
            thread.join()
