//! Residency: whether data may be in a country.

/// Member states of the European Union, ISO 3166-1 alpha-2.
const EU: [&str; 27] = [
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IT", "LT", "LU", "LV", "MT", "NL", "PL", "PT", "RO",
    "SE", "SI", "SK",
];

/// States of the European Economic Area that are not in the Union.
const EEA: [&str; 3] = ["IS", "LI", "NO"];

/// Whether data with this residency may be in `country`. An empty list allows every country; an unknown entry allows none.
pub fn allows(residency: &[String], country: &str) -> bool {
    residency.is_empty()
        || residency.iter().any(|entry| match entry.as_str() {
            "EU" => EU.contains(&country),
            "EEA" => EU.contains(&country) || EEA.contains(&country),
            code => code == country,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_codes() {
        let list = |entries: &[&str]| entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>();
        assert!(allows(&[], "XX"));
        assert!(allows(&list(&["EU"]), "FR"));
        assert!(!allows(&list(&["EU"]), "NO"));
        assert!(allows(&list(&["EEA"]), "NO"));
        assert!(!allows(&list(&["FR"]), "DE"));
        assert!(!allows(&list(&["ZZ"]), "FR"));
    }
}
