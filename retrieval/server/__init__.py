"""`retrieval serve`: the page that people search their photos on, and the HTTP API of programs.

FastAPI, uvicorn and the rest of the extra `serve` are imported here only when a server starts.
"""
