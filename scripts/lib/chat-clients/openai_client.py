"""The official client of OpenAI for Python, for tests/genie/chat_clients.rs.

    python openai_client.py ADDRESS TOKEN

The last line is what happened, as JSON.
"""

import json
import sys

import openai

address, token = sys.argv[1:]
client = openai.OpenAI(base_url=f"{address}/v1", api_key=token, max_retries=0)
model = "qwen2.5:latest"
weather = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def asking(content, **more):
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


def failure(asked):
    try:
        for _ in asked():
            pass
    except openai.APIError as error:
        status = getattr(error, "status_code", None)
        return [type(error).__name__, status, error.code, error.type, error.param]


told = {
    "models": [one.id for one in client.models.list()],
    "model": client.models.retrieve(model).id,
}

whole = client.chat.completions.create(**asking("hello"))
told["whole"] = [whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage.completion_tokens]

text, usage = "", None
for chunk in client.chat.completions.create(**asking("hello", stream=True, stream_options={"include_usage": True})):
    if chunk.choices:
        text += chunk.choices[0].delta.content or ""
    usage = chunk.usage or usage
told["streamed"] = [text, usage.completion_tokens]

# The calls come back as the client holds them.
messages = asking("the weather?")["messages"]
answer = client.chat.completions.create(model=model, messages=messages, tools=[weather]).choices[0]
told["calls"] = [[call.function.name, json.loads(call.function.arguments)] for call in answer.message.tool_calls]
messages.append(answer.message)
messages += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in answer.message.tool_calls]
told["tools"] = client.chat.completions.create(model=model, messages=messages, tools=[weather]).choices[0].message.content
with client.chat.completions.stream(model=model, messages=messages[:1], tools=[weather]) as stream:
    final = stream.get_final_completion().choices[0]
told["streamed_calls"] = [final.finish_reason, [call.function.name for call in final.message.tool_calls]]

with client.chat.completions.create(**asking("a long one", stream=True, user="aborted")) as aborted:
    for chunk in aborted:
        if chunk.choices[0].delta.content:
            break
told["aborted"] = aborted.response.is_closed

told["unknown_model"] = failure(lambda: client.chat.completions.create(**{**asking("x"), "model": "gpt-4o"}))
told["wrong_field"] = failure(lambda: client.chat.completions.create(**asking("x", n=2)))
told["missing_model"] = failure(lambda: client.chat.completions.create(**asking("missing")))
told["broken_stream"] = failure(lambda: client.chat.completions.create(**asking("breaks", stream=True)))
stranger = openai.OpenAI(base_url=f"{address}/v1", api_key="nobody", max_retries=0)
told["stranger"] = failure(stranger.models.list)

print(json.dumps(told))
