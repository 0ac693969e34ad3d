"""`retrieval mcp`."""

from retrieval.commands.options import IndexOption, TrustOption


def mcp(index: IndexOption = None, trust: TrustOption = False) -> None:
    """Let an assistant search the photos, over the Model Context Protocol.

    It talks on standard input and output; the assistant starts it. Needs the extra `mcp`.
    """
    import retrieval

    retrieval.run_mcp(index, trust)
