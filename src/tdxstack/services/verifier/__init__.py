"""A verifier as a service: challenge, attest, token (RATS passport model, RFC 9334).

``nonces`` challenges that are used once; ``evidence`` what a request holds; ``attestation`` its judging;
``app`` the routes.
"""
