//! What nodes say to each other, over gRPC: the client and the server side of peer.proto.

pub mod faults;
