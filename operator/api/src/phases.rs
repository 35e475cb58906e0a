//! Closed sets of words in status: compared as types, and written down as words in status alone.

macro_rules! phases {
    ($(#[doc = $about:literal])+ $kind:ident { $($(#[doc = $doc:literal])+ $(#[serde($($meta:tt)+)])? $name:ident,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum $kind { $($(#[doc = $doc])+ $(#[serde($($meta)+)])? $name,)+ }

        impl $kind {
            /// Every value.
            pub const ALL: &[$kind] = &[$($kind::$name,)+];

            /// The value as written in status.
            pub fn as_str(self) -> &'static str {
                match self { $($kind::$name => stringify!($name),)+ }
            }

            /// What it means, as its documentation says.
            pub fn meaning(self) -> &'static str {
                match self { $($kind::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }

        impl ::std::fmt::Display for $kind {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
