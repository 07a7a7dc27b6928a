"""HTTP/1.1 over sockets: the server's connections, and the client's to backends."""
