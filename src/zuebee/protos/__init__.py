"""Generated from `proto/` by `make protos`: the messages of the gRPC APIs."""
