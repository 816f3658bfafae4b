# TDVF: OvmfPkg/IntelTdx for each of $TDVF_TARGETS, as $TDVF_DIRECTORY/$TDVF_NAME.fd (.debug.fd of a debug build).
export PYTHON3_ENABLE=TRUE PYTHON_COMMAND=python3
make -C BaseTools ARCH=X64 -j"$JOBS"
for target in $TDVF_TARGETS; do
    # edksetup.sh is bash's, and takes our arguments for its own
    export target
    bash -ec '. ./edksetup.sh; build -n "$JOBS" -a X64 -t GCC5 -b "$target" -p OvmfPkg/IntelTdx/IntelTdxX64.dsc $TDVF_FLAGS'
    suffix=
    [ "$target" = RELEASE ] || suffix=.debug
    for part in OVMF OVMF_CODE OVMF_VARS; do
        name=$TDVF_NAME${part#OVMF}$suffix.fd
        [ ! -f "Build/IntelTdx/${target}_GCC5/FV/$part.fd" ] ||
            install -D -m 0644 "Build/IntelTdx/${target}_GCC5/FV/$part.fd" "$DESTDIR$TDVF_DIRECTORY/$name"
    done
done
