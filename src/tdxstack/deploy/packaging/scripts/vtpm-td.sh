# The vTPM TD's image. rustup takes the toolchain that the source pins.
export CC=clang AR=llvm-ar PATH="$HOME/.cargo/bin:$PATH"
rustup component add rust-src
cargo install --locked cargo-xbuild
bash sh_script/pre-build.sh
bash sh_script/build.sh
install -D -m 0644 target/x86_64-unknown-none/release/vtpmtd.bin "$DESTDIR/usr/share/tdx-vtpm/vtpmtd.bin"
