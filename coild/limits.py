"""What a request may be at most, and why."""

#: A request has three names and a few words around them; this is twenty times that.
BODY_BYTES_MAX = 64 * 1024
#: Kubernetes names are DNS subdomains at most: 253 characters (RFC 1123, section 2.1).
NAME_LENGTH_MAX = 253
#: Container IDs are 64 hexadecimal digits everywhere; runtimes may choose otherwise, within reason.
CONTAINER_ID_LENGTH_MAX = 256
#: A path holds all three, each character up to four bytes, each byte up to three characters:
#: whatever POST accepted must fit into the path of a DELETE.
HEADER_BYTES_MAX = 16 * 1024

# No control character (Unicode Cc) in what is logged and shown; no slash in what is a part of a
# path and of `namespace/name`; no surrogate, which an argument that is not UTF-8 has. `$` alone
# would let a newline through at the end.
NAME_PATTERN = rf"^[^/\x00-\x1f\x7f-\x9f\ud800-\udfff]{{1,{NAME_LENGTH_MAX}}}$(?!\n)"
CONTAINER_ID_PATTERN = rf"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{{1,{CONTAINER_ID_LENGTH_MAX}}}$(?!\n)"

NAME_RULE = f"1 to {NAME_LENGTH_MAX} characters without '/' or control characters"
CONTAINER_ID_RULE = f"1 to {CONTAINER_ID_LENGTH_MAX} characters without control characters"
