"""The REST API over HTTP: what is asked, what is answered, and the server that carries both."""
