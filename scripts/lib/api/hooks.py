"""What schemathesis is told beside the document: who calls, and which ids, leases and tokens are live.

`GENIE_API_URL` is the server, `GENIE_API_CALLER` is `user`, `admin` or `secret`, and `GENIE_API_INVITES` holds
unused invites. The first is an administrator's if the caller is one. `GENIE_API_STATUSES` is a file: at the end it
holds how often each operation answered each status.
"""

import atexit
import collections
import io
import itertools
import json
import os
import uuid
import zipfile

import requests
import schemathesis

url = os.environ["GENIE_API_URL"]
caller = os.environ["GENIE_API_CALLER"]
secret = os.environ["RBAC_SYNC_WEBHOOK_SECRET"]
# A claim waits for work until this time is over.
LONGEST_WAIT_MS = 200
# They end logins, the caller's own among them.
ENDS_LOGINS = {"endLogins", "endLogin", "changeMe"}

# The things that answers tell of: the operation, and the field or header with the id or token.
GIVES = {
    "submitJob": [("job", "jobId")],
    "createProfile": [("profile", "id")],
    "storeDownloadCredential": [("credential", "id")],
    "storePlatformSession": [("credential", "id")],
    "uploadOnboardingData": [("file", "fileId")],
    "ask": [("turn", "Genie-Turn")],
    "impersonate": [("impersonation", "session")],
    "createServiceKey": [("service key", "id")],
    "createApiKey": [("API key", "id")],
    "offerPasswordReset": [("reset", "token")],
    "register": [("user", "userId")],
}
# The places where operations want such things.
TAKES = {
    "showJob": [("job", "id")],
    "cancelJob": [("job", "id")],
    "retryJob": [("failed job", "id")],
    "showCredential": [("credential", "id")],
    "showCredentialHistory": [("credential", "id")],
    "removeCredential": [("credential", "id")],
    "updateProfile": [("profile", "id")],
    "storeCredential": [("profile", "creatorProfileId")],
    "revealCredential": [("profile", "creatorProfileId")],
    "revealDownloadCredential": [("caller", "userId")],
    "revealPlatformSession": [("caller", "userId")],
    "downloadFile": [("file", "id")],
    "resumeTurn": [("turn", "turn")],
    "stopTurn": [("turn", "turn")],
    "listMessages": [("chat", "session")],
    "endLogin": [("login", "id")],
    "endImpersonation": [("impersonation", "session")],
    "impersonate": [("user", "id")],
    "forgetUser": [("user", "id")],
    "keepUser": [("leaving user", "id")],
    "showForgetting": [("user", "id")],
    "offerPasswordReset": [("user", "id")],
    "removeTwoFactor": [("user", "id")],
    "syncAccount": [("user", "userId")],
    "incrementUsage": [("caller", "userId")],
    "revokeServiceKey": [("service key", "id")],
    "createApiKey": [("password", "password")],
    "revokeApiKey": [("API key", "id")],
    "showSkill": [("skill", "id")],
    "relatedSkills": [("skill", "id")],
    "revokeInvite": [("invite", "code")],
    "register": [("invite", "inviteCode"), ("address", "email")],
    "logIn": [("caller's address", "email"), ("password", "password")],
    "refresh": [("refresh token", "refresh_token")],
    "logOut": [("refresh token", "refresh_token")],
    "resetPassword": [("reset", "token")],
    "changeMe": [("password", "old_password"), ("address", "email")],
    "generateTwoFactor": [("password", "password")],
    "exportMineWithSecrets": [("password", "password")],
}
LEASED = {"renewLease", "completeJob", "failJob", "releaseJob"}

pool = collections.defaultdict(list)
server = {"X-RBAC-SYNC-SECRET": secret}


def address():
    return f"{uuid.uuid4()}@example.com"


def call(method, path, headers=None, **more):
    answer = requests.request(method, f"{url}{path}", headers=headers, timeout=10, **more)
    assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
    return answer


class Login:
    """The caller's account and token. It logs in anew after a request that may have ended the login."""

    email = address()
    password = str(uuid.uuid4())
    token = None

    @classmethod
    def header(cls):
        if cls.token is None:
            cls.token = token_of(cls.email)
        return {"Authorization": cls.token}

    def get(self, case, context):
        return self.header()

    def set(self, case, header, context):
        case.headers.update(header)


class Secret:
    def get(self, case, context):
        return secret

    def set(self, case, secret, context):
        case.headers["X-RBAC-SYNC-SECRET"] = secret


schemathesis.auth(refresh_interval=None)(Secret if caller == "secret" else Login)


def archive():
    """A ZIP of ASCII alone, as a text: schemathesis takes a body with other bytes for one that the schema refuses."""
    for spaces in itertools.count():
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as inside:
            entry = zipfile.ZipInfo("posts.json")
            entry.external_attr = 0x20
            inside.writestr(entry, f"[{' ' * spaces}]")
        if file.getvalue().isascii():
            return file.getvalue().decode()


def register(email, password, invite):
    body = {"email": email, "password": password, "inviteCode": invite}
    return call("POST", "/api/register", json=body).json()["userId"]


def fill(invites):
    """Makes things that belong to the caller, or to the user of the jobs that servers work on."""
    pool["caller"].append(register(Login.email, Login.password, invites[0]))
    for invite in invites[1:4]:
        pool["user"].append(register(address(), Login.password, invite))
    pool["leaving user"].append(pool["user"][-1])
    for invite in invites[4:6]:
        email = address()
        register(email, Login.password, invite)
        pool["leaver"].append(token_of(email))
    pool["invite"] += invites[6:]
    mine = Login.header()
    for n in range(7):
        job = call("POST", "/api/queue/media", mine, json={"operation": "resize_image", "input_url": "http://a/b", "params": {"width": n + 1}})
        pool["job"].append(job.json()["jobId"])
        profile = {"platform": "onlyfans", "platform_username": f"ada{n}", "credentials": {"password": "hunter2"}}
        kept = call("POST", "/api/credentials/create-profile", mine, json=profile).json()["id"]
        pool["profile"].append(kept)
        pool["credential"].append(kept)
    download = {"platform": "youtube", "kind": "password", "username": "ada", "password": "hunter2"}
    call("POST", "/api/credentials/download-cred", mine, json=download)
    session = {"platform": "onlyfans", "cookies": [{"name": "a", "value": "b", "domain": ".onlyfans.com"}]}
    call("POST", "/api/credentials/platform-session", mine, json=session)
    call("POST", "/api/genie/stream-chat", mine, json={"message": "Hello", "sessionId": "first"})
    pool["chat"].append("first")
    pool["skill"].append("hooks")
    call("PATCH", "/api/onboarding/state", mine, json={"state": "DATA_COLLECTION"})
    # The user's own upload is left to the test of that route.
    if caller != "user":
        upload = call("POST", "/api/onboarding/zip-upload", mine, files={"file": ("data.zip", archive())})
        pool["file"].append(upload.json()["fileId"])
    for _ in range(3):
        other = call("POST", "/auth/login", json={"email": Login.email, "password": Login.password}).json()["data"]
        pool["refresh token"].append(other["refresh_token"])
    fail_jobs(2)


def fail_jobs(count):
    """Some of the caller's jobs fail for good."""
    while len(pool["failed job"]) < count:
        job, lease = new_lease()
        call("POST", f"/api/worker/jobs/{job}/fail", server, json={"lease": lease, "retryable": False})
        if job in pool["job"]:
            pool["failed job"].append(job)


def new_lease():
    """A job that a worker holds, and its lease."""
    job = call("POST", "/api/queue/media", Login.header(), json={"operation": "resize_image", "input_url": "http://a/b", "params": {"width": 1}}).json()["jobId"]
    pool["job"].append(job)
    claim = {"queues": ["media-jobs"], "worker_id": "w", "wait_ms": 5000}
    claimed = call("POST", "/api/worker/claim", server, json=claim).json()["jobs"][0]
    return claimed["jobId"], claimed["lease"]


def token_of(email):
    login = call("POST", "/auth/login", json={"email": email, "password": Login.password}).json()["data"]
    return f"Bearer {login['access_token']}"


fill(os.environ["GENIE_API_INVITES"].split())
turns = collections.defaultdict(itertools.count)


def new_login():
    """The id of a login of the caller's that nobody uses. The list begins with the one that was used last."""
    token_of(Login.email)
    return call("GET", "/api/me/sessions", Login.header()).json()["data"][0]["id"]


def live(kind):
    if kind == "address":
        return address()
    if kind == "password":
        return Login.password
    if kind == "caller's address":
        return Login.email
    if kind == "login":
        return new_login()
    return pool[kind][next(turns[kind]) % len(pool[kind])] if pool[kind] else None


def put(case, name, value):
    """Sets a part of the path or a field of the body, in a copy: several requests may share one."""
    if name in (case.path_parameters or {}):
        case.path_parameters = {**case.path_parameters, name: value}
    if isinstance(case.body, dict) and name in case.body:
        case.body = {**case.body, name: value}


def is_valid(case):
    meta = case.meta
    return meta is not None and all(part.mode.is_positive for part in [meta.generation, *meta.components.values()])


@schemathesis.hook
def before_load_schema(context, document):
    """The schema of a stream's events, in the word that the next version of OpenAPI has for it."""
    for item in document["paths"].values():
        for operation in item.values():
            for answer in operation["responses"].values():
                stream = answer.get("content", {}).get("text/event-stream")
                if stream:
                    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": stream["x-event-schema"]}
                    if operation["operationId"] == "completeChat":
                        data = {"type": "string"} # the last event is `[DONE]`, which is no JSON
                    del stream["schema"]
                    stream["itemSchema"] = {"type": "object", "required": ["data"], "properties": {"data": data}}


@schemathesis.hook
def before_call(context, case, kwargs):
    operation = operation_id(case)
    wait = case.body.get("wait_ms") if isinstance(case.body, dict) else None
    if isinstance(wait, int) and wait > LONGEST_WAIT_MS:
        put(case, "wait_ms", LONGEST_WAIT_MS)
    # The token may be older than the login.
    if caller != "secret" and str(case.headers.get("Authorization", "")).startswith("Bearer ey"):
        case.headers.update(Login.header())
        # A login of the last minutes is enough to leave.
        if operation == "forgetMe":
            case.headers["Authorization"] = live("leaver")
    # Every third request keeps what was generated.
    if not is_valid(case) or next(turns[operation]) % 3 == 2:
        return
    # A feed that is followed live has no end. `max-stream-events` ends it, so it must hold that many.
    if operation in {"listEvents", "listOwnEvents"} and next(turns["feed"]) % 5 == 0:
        case.query = {}
        case.headers["Accept"] = "text/event-stream"
    if operation == "uploadOnboardingData":
        put(case, "file", archive())
    for kind, name in TAKES.get(operation, []):
        value = live(kind)
        if value is not None:
            put(case, name, value)
    if operation in LEASED:
        job, lease = new_lease()
        put(case, "id", job)
        put(case, "lease", lease)


statuses = collections.defaultdict(collections.Counter)


def operation_id(case):
    return case.operation.definition.raw["operationId"]


def is_json(response):
    return "application/json" in response.headers.get("content-type", [""])[0] and response.content


@schemathesis.hook
def after_call(context, case, response):
    operation = operation_id(case)
    if case.method.upper() != case.operation.method.upper():
        return
    statuses[operation][response.status_code] += 1
    if response.status_code >= 300:
        return
    answer = response.json() if is_json(response) else {}
    for kind, name in GIVES.get(operation, []):
        value = answer.get(name) or response.headers.get(name.lower(), [None])[0]
        if value is not None:
            pool[kind].append(value)
    if operation == "changeMe":
        Login.email = case.body.get("email") or Login.email
        Login.password = case.body.get("password") or Login.password
    if operation in ENDS_LOGINS:
        Login.token = None


@atexit.register
def write_statuses():
    with open(os.environ["GENIE_API_STATUSES"], "w") as file:
        json.dump(statuses, file, indent=1)


@schemathesis.check
def no_undocumented_field(context, response, case):
    """A schema lets other fields pass. Answers have none that the document does not name."""
    if not is_json(response):
        return
    responses = case.operation.definition.raw["responses"]
    root = case.operation.schema.raw_schema
    answer = resolve(root, responses.get(str(response.status_code)))
    content = (answer or {}).get("content", {}).get("application/json")
    if content is None:
        return
    unknown = list(undocumented(root, content["schema"], response.json(), ""))
    assert not unknown, f"fields that the document does not name: {', '.join(unknown)}"


def resolve(root, schema):
    while schema is not None and "$ref" in schema:
        place = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            place = place[part]
        schema = place
    return schema


def alternatives(root, schema):
    """The schema and all that it is made of."""
    schema = resolve(root, schema)
    yield schema
    for word in ("allOf", "anyOf", "oneOf"):
        for part in schema.get(word, []):
            yield from alternatives(root, part)


def undocumented(root, schema, value, place):
    parts = list(alternatives(root, schema))
    if isinstance(value, list):
        items = {"anyOf": [part["items"] for part in parts if "items" in part]}
        for index, item in enumerate(value):
            yield from undocumented(root, items, item, f"{place}[{index}]")
    if isinstance(value, dict):
        fields = [part["properties"] for part in parts if "properties" in part]
        others = [part["additionalProperties"] for part in parts if isinstance(part.get("additionalProperties"), dict)]
        # An object of which nothing is said, such as the parameters of a job.
        is_free = not fields and not others
        for name, inner in value.items():
            known = [each[name] for each in fields if name in each] or others
            if known:
                yield from undocumented(root, {"anyOf": known}, inner, f"{place}.{name}")
            elif not is_free:
                yield f"{place}.{name}"
