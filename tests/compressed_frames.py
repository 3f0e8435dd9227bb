"""Compressed frames that no encoder at hand can write: the values of dicom_files.chest(size=16)[3].

Written by OpenJPH 0.26 and libjpeg-turbo 3.1, as imagecodecs 2026.3.6 has them; there, its decoders
and those of this package agree on a plane of 512 x 512 as well.
"""

from base64 import b85decode

HTJ2K_SIGNED = b85decode(
    "|4;u>04YEK0000G0000G00000000000000G0000G000000000000EBy0sl|{2mk^A000XAQUDA90ssL31q1{@0sm"
    "Y86Cj9?kdTm&kdTm&kdTmwh=~7W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00001*#H6mlfVEbMg0PYbN~Rr0"
    "206e6F>kH09FDAbO4V00*7<}SpEVBbO68r6)*q=Q~&`~ATFB1umGc!0AcAu$_)MiM>GJw=8lI5@BqP-0Kfni)Bpi"
    ")KmZolicKM!00sH$!bLaY8w^G#)VER@%0>VYmjJGSZ{G0nk}B5@fE1QYiBJp!E$RT0kr05^xB!x{6$s!~I1ql&#1"
    "e~<P^7rOXHfwG#xN0=0Kfn*T7Upv!2kfgbN~nnfjVal63|@=7$cJz4a`Ny6enRI2rMwW`qF`<h{;J*1!P~0G$n!H"
    "N^sKb;sD!|T&S^dM4cQI93BV|0@_`)CqfDq`~U(mxH38E0aYnD00bZ~E0O^K0V{PAJi#FU0sI*-=f<TEbXFZ;v&1"
    "_THw;u^f|3l}cu!R)LEsC7MzN?dgA-&HJUZZuQy`azK?Jl|kn{*wyimXam2gmm2Lk*6n(s77t^@!mxEQmDU}6X$3"
    "zPvfw2{J;LnPG;%+QAgD)<~UU4jAX0i|`IfCrx;5w8Pi&&-1(UPxzU?EE+?x=?50`T|^c&(1*z835SG9%qPfzzqR"
    "3i9!u1oH4-w0Mwua3NN@tAs85u!B>$1|Je"
)
HTJ2K_UNSIGNED = b85decode(
    "|4;u>04YEK0000G0000G00000000000000G0000G0000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0sm"
    "Y86Cj9?kdTm&kdTm&kdTmwh=~7W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00001*#H6mlfVEbMg0W_bN~Rr0"
    "206e6F>kH09FDAbO4V00*7<}SpEVBbO68r6)*q=Q~&`~ATFB1umGc!0AcAu$_)MiM>GJw=8lI5@BqP-0Kfni)Bpi"
    ")KmZolicKM!00sH$!bLaY8w^G#)VER@%0>VYmjJGSZ{G0nk}B5@fE1QYiBJp!E$RT0kr05^xB!x{6$s!~I1ql&#1"
    "e~<P^7rOXHfwG#xN0=0Kfn*T7Upv!2kfgbN~nnfjVal63|@=7$cJz4a`Ny6enRI2rMwW`qF`<h{;J*1!P~0G$n!H"
    "N^sKb;sD!|T&S^dM4cQI93BV|0@_`)CqfDq`~U(mxH38E0aYnD00bZ~E0O^K0V{PAJi#FU0sI*-=f<TEbXFZ;v&1"
    "_THw;u^f|3l}cu!R)LEsC7MzN?dgA-&HJUZZuQy`azK?Jl|kn{*wyimXam2gmm2Lk*6n(s77t^@!mxEQmDU}6X$3"
    "zPvfw2{J;LnPG;%+QAgD)<~UU4jAX0i|`IfCrx;5w8Pi&&-1(UPxzU?EE+?x=?50`T|^c&(1*z835SG9%qPfzzqR"
    "3i9!u1oH4-w0Mwua3NN@tAs85u!B>$1|Je"
)
HTJ2K_LOSSY = b85decode(
    "|4;u>04YEK0000G0000G00000000000000G0000G0000000000009pH0sl|{2mk^A001TbQUDA90ssL31q1{@0RL"
    "P7BO;G<k429~j~9nrhg^p}f2x0~f5K=rXf<efU>aZ=Z@>R!02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*000014"
    "gdlFlfVEbwFL!-bN~Rr080P?EC2+c_yC7=0K5SQbO8DQM|1$d0H}ZgQ2+vPoX#=y07H}j76nA{0EaXHG%N-HA(Q~"
    "X0=fVei~uXZD3mJh#PhHKWy+`RcL1aeN6o3gu*|u+_$f$|1hxQy5GKML0|E5<IB%(ymH@y7)W8MTKmzH2fW>q9%L"
    "$nwP&Z4kGZ$K@IiXKOD}grfKn=((!I95M4|-=D-PGh!0U9^}yg+q<=8{v0h~+dvuN<BLyTUptD4?PW_(){sZb?VU"
    "GoBe6J0aEqQ&Ir{2oVVN8R!Ig4w0Fb37S+%U|j-)1&x@gRenb<i#aiJB7jIy0sq+"
)
JPEG_12_BITS = b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV009930RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40Ra"
    "I40RaI40RaI40RaI40RaI40sp}O3k(1d01yEI5di<h02TlN0RaF20000000000000072oC?m02~ki0s{d70RaF20"
    "0000000082?hrW3k3oM|Jncu0RaF2KLExva{J&-l2;vYWO-ZkPi{It6tqpySyTHu9Lu7%%G|wQe2Z(FFp=<N=sZQ"
    "XS)@iP#zQ0es`qbA0aM`(&uuJ~uC8c{df{GGAgK`d92BmRA=od9C9O%juRjjlJmzTs0Aomd0FRyco?1@H`dlh>qo"
    "oDQsDdp;RrForu?E2Sb79y0R)$Wfi29R#;&tY&Wgj&3-r-!hp&>cLSD#6S071`%Rsm8m<!2>QC&O<q4)~cdOSZ03"
    "8y`kBb)&OiK-djbGMv<A4WVViF0E!Yk^caj8DLgkgd!r;(VE?3h2qMhey&74PaR}55CLThrpl`>Mx9xcelO*56h*"
    "W~t{-f*Kf!wLcOk|GjE^>&@-PU5-*_vdy<DYpH#u5xWSWqsR7~(`rPWCSEse`$k+Be<IZ_j@d)^xy^Hx+){{T%67"
    "i|9k@EswQC>ABTc`sLtYr5lRtv1_i;Gh55"
)
