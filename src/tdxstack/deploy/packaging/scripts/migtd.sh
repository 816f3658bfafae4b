# MigTD's image, and the SERVTD_INFO_HASH by which user TDs are bound to it. rustup takes the toolchain that the source pins.
rustup component add rust-src
export PATH="$HOME/.cargo/bin:$PATH"
grep -q xbuild .cargo/config* 2>/dev/null && cargo install --locked cargo-xbuild
./sh_script/preparation.sh
cargo image
cargo hash --image target/release/migtd.bin >migtd.servtd_info_hash
install -D -m 0644 target/release/migtd.bin "$DESTDIR/usr/share/td-migration/migtd.bin"
install -m 0644 migtd.servtd_info_hash "$DESTDIR/usr/share/td-migration/migtd.servtd_info_hash"
