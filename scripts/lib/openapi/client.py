"""Registers, logs in, queues a job and chats, by the client that openapi-python-client generates."""

import sys
import uuid

from generated.api.chat import ask
from generated.api.identity import log_in, register
from generated.api.queue import list_jobs, submit_job
from generated.client import AuthenticatedClient, Client
from generated.models import Login, NewJob, Question, Queue, Registration
from generated.models.failure import Failure
from generated.models.submit_job_response_200 import SubmitJobResponse200

base, invite = sys.argv[1:]
client = Client(base_url=base)
email = f"{uuid.uuid4()}@example.com"
password = str(uuid.uuid4())

registered = register.sync(
    client=client,
    body=Registration(email=email, password=password, invite_code=invite),
)
assert registered.ok and registered.user_id, registered

login = log_in.sync(client=client, body=Login(email=email, password=password))
user = AuthenticatedClient(base_url=base, token=login.data.access_token)

job = {"operation": "resize_image", "input_url": "https://example.com/a.jpg", "params": {"width": 100}}
queued = submit_job.sync(client=user, body=NewJob.from_dict(job))
assert isinstance(queued, SubmitJobResponse200), queued
assert queued.queue == Queue.MEDIA_JOBS, queued
jobs = list_jobs.sync(client=user)
assert [job.job_id for job in jobs.data] == [queued.job_id], jobs

# Without a model server the answer is a failure; either way it has the type that the document says.
answer = ask.sync(client=user, body=Question(message="hello"))
is_stream = isinstance(answer, str) and "finalizeResponseStream" in answer
assert is_stream or isinstance(answer, Failure), answer
print("openapi-python-client: register, login, queue, chat")
