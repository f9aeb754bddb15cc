//! The protocols: generated protobuf modules, and the one header beside them ([`epoch`]).

pub mod epoch;

/// Every message's descriptor, for reflection and the naming test.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

pub mod queue {
    pub mod v1 {
        tonic::include_proto!("zoneq.queue.v1");
    }
}

pub mod admin {
    pub mod v1 {
        tonic::include_proto!("zoneq.admin.v1");
    }
}

pub mod peer {
    pub mod v1 {
        tonic::include_proto!("zoneq.peer.v1");
    }
}

pub mod geo {
    pub mod v1 {
        tonic::include_proto!("zoneq.geo.v1");
    }
}

pub mod log {
    pub mod v1 {
        tonic::include_proto!("zoneq.log.v1");
    }
}
