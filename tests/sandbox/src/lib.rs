//! An embedded OpenShift-like API server and image registry for the tests and the demo.
