# The SGX SDK, then DCAP's packages with it. Enclaves are Intel's, signed; make preparation checks their digests.
make preparation
make -j"$JOBS" sdk_install_pkg_no_mitigation
printf 'no\n/opt/intel\n' | ./linux/installer/bin/sgx_linux_x64_sdk_*.bin
. /opt/intel/sgxsdk/environment
cd external/dcap_source/QuoteGeneration
./download_prebuilt.sh
if command -v dpkg-buildpackage >/dev/null; then
    make deb_pkg
    find . -name '*.deb' -exec mv -t "$PACKAGES" {} +
else
    make rpm_pkg
    find . -name '*.rpm' ! -name '*.src.rpm' -exec mv -t "$PACKAGES" {} +
fi
