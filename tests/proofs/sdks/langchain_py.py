"""The same with LangChain, which adds up the usage of all chunks."""

import json
import sys

from langchain_openai import ChatOpenAI

for model in sys.argv[1:]:
    seen = {"model": model, "text": "", "usage": [], "error": None}
    whole = None
    try:
        for chunk in ChatOpenAI(model=model, max_retries=0).stream("Hello"):
            whole = chunk if whole is None else whole + chunk
        seen["text"] = whole.content
        if whole.usage_metadata:
            seen["usage"].append(whole.usage_metadata["total_tokens"])
    except Exception as error:
        seen["error"] = str(error)
    print(json.dumps(seen))
