# shim, with no vendor certificate: it trusts what the firmware's db and MOK trust.
make -j"$JOBS" ENABLE_REPRODUCIBLE_BUILDS=1 COMMIT_ID="$VERSION" shimx64.efi mmx64.efi fbx64.efi
for name in shimx64 mmx64 fbx64; do
    install -D -m 0644 "$name.efi" "$DESTDIR/usr/lib/tdxstack/shim/$name.efi"
done
