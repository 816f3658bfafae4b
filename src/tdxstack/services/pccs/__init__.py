"""A caching service for provisioning certificates: Intel's PCCS REST interface, v3 and v4.

``settings`` what can be set; ``store`` the database; ``caching`` what the modes LAZY, REQ and OFFLINE do;
``selection`` which PCK certificate fits; ``intake`` collateral that administrators bring; ``app`` the routes;
``server`` listening.
"""
