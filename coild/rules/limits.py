"""The limits of requests, and the reason for each."""

#: A request has three names and a few words around them; this is twenty times that.
BODY_BYTES_MAX = 64 * 1024
#: A garbage collection names every container of a network: 200,000 in both families.
COLLECT_BYTES_MAX = 32 * 1024 * 1024
#: What all connections together may keep of long requests and of unread answers. With
#: 200,000 addresses held, some 180 MiB, and what 8192 connections keep without asking, some 130,
#: the whole stays below 512.
BUDGET_BYTES = 64 * 1024 * 1024
#: What a connection may keep without asking.
FREE_BYTES = 4 * 1024
#: How long, and how much, is read after an error of a request that was not read to its end: a peer
#: that is still sending would be told of a reset in place of the answer (RFC 9112, section 9.6).
LINGER_SECONDS = 2.0
LINGER_BYTES = 2 * COLLECT_BYTES_MAX
#: Kubernetes names are DNS subdomains at most: 253 characters (RFC 1123, section 2.1).
NAME_LENGTH_MAX = 253
#: Container IDs are 64 hexadecimal digits everywhere; runtimes may choose otherwise, within reason.
CONTAINER_ID_LENGTH_MAX = 256
#: A path holds all three, each character up to four bytes, each byte up to three characters:
#: whatever POST accepted must fit into the path of a DELETE.
HEADER_BYTES_MAX = 16 * 1024
#: Clients send ten or twenty; each costs more than its bytes.
FIELDS_MAX = 64

# No control character (Unicode Cc) in what is logged and shown; no slash in what is a part of a
# path and of `namespace/name`; no surrogate, which an argument that is not UTF-8 has. `$` alone
# would let a newline through at the end.
NAME_PATTERN = rf"^[^/\x00-\x1f\x7f-\x9f\ud800-\udfff]{{1,{NAME_LENGTH_MAX}}}$(?!\n)"
CONTAINER_ID_PATTERN = rf"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{{1,{CONTAINER_ID_LENGTH_MAX}}}$(?!\n)"

# The same as keywords of JSON Schema (ECMA 262), where `$` is the end and text has no surrogate.
NAME_SCHEMA = {
    "type": "string",
    "pattern": r"^[^/\x00-\x1f\x7f-\x9f]+$",
    "minLength": 1,
    "maxLength": NAME_LENGTH_MAX,
}
NETWORK_SCHEMA = NAME_SCHEMA | {"pattern": r"^[^/\x00-\x1f\x7f-\x9f]*$", "minLength": 0}
CONTAINER_ID_SCHEMA = {
    "type": "string",
    "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$",
    "minLength": 1,
    "maxLength": CONTAINER_ID_LENGTH_MAX,
}

NAME_RULE = f"1 to {NAME_LENGTH_MAX} characters without '/' or control characters"
CONTAINER_ID_RULE = f"1 to {CONTAINER_ID_LENGTH_MAX} characters without control characters"

#: A request, header and body, that has not arrived so long after its first byte is given up. It is
#: looked at twice in that time, so it may have half as long again before and after.
ARRIVAL_SECONDS = 10
#: An answer waits for a flush and, rarely, for a block: longer than this, something hangs. A peer
#: that leaves a large answer unread for so long is given up as well.
RESPONSE_SECONDS = 30
#: A connection without a request is closed after this; a client may open another at any time.
IDLE_SECONDS = 120
#: A node has some hundred pods and each one client; 4096 connections cost some 35 MB.
CONNECTIONS_MAX = 4096
